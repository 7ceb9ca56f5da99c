"""The client and the command line with nothing installed but what pyproject.toml says they need."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

DOCUMENT = "!aB:7x!!kk:Q3!!0z:mN!|"
PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
CLIENT = PROJECT["dependencies"]
CLI = CLIENT + PROJECT["optional-dependencies"]["cli"]
HIDE = '''
"""Run a program that finds the libraries of some requirements, and what they require, alone."""

import json
import re
import runpy
import sys
from importlib import metadata


def normalize(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def close(requirements):
    found, open_ = set(), [r for r in requirements if "extra ==" not in r]
    while open_:
        name = normalize(re.match(r"[\\w.-]+", open_.pop())[0])
        if name not in found:
            found.add(name)
            try:
                below = metadata.requires(name) or []
            except metadata.PackageNotFoundError:  # for another platform
                below = []
            open_ += [r for r in below if "extra ==" not in r]
    return found


class Hide:
    def __init__(self, requirements):
        self.shown = close(requirements) | {"gradmem"}
        self.owners = metadata.packages_distributions()

    def find_spec(self, name, path=None, target=None):
        owners = self.owners.get(name.partition(".")[0])
        if owners and not self.shown & set(map(normalize, owners)):
            raise ModuleNotFoundError(f"no {name}", name=name)


requirements, program = json.loads(sys.argv.pop(1)), sys.argv.pop(1)
sys.meta_path.insert(0, Hide(requirements))
if program == "-c":
    exec(sys.argv.pop(1))
else:
    runpy.run_module(program, run_name="__main__", alter_sys=True)
'''
USE = """
import asyncio
from service.client import AsyncClient, Client

async def write_and_read(url):
    async with AsyncClient(url) as client:
        memory = await client.write(DOCUMENT)
        answer = await memory.ask("?!aB:")
        return answer.answer

DOCUMENT, url = sys.argv[1:]
with Client(url) as client:
    memory = client.write(DOCUMENT)
    answer = memory.ask("?!aB:").answer
    assert answer == asyncio.run(write_and_read(url)), answer
    memory.delete()
assert "torch" not in sys.modules and "typer" not in sys.modules
"""


@pytest.fixture(scope="module")
def hide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("hide") / "hide.py"
    file.write_text(HIDE)
    return file


def run(hide: Path, requirements: list[str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run a module, or `-c` with a program, that finds only these requirements."""
    command = [sys.executable, str(hide), json.dumps(requirements), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_client_needs_httpx_and_pydantic_alone(hide: Path, base_url: str) -> None:
    assert [name.partition(">=")[0] for name in CLIENT] == ["httpx", "pydantic"]
    assert PROJECT["optional-dependencies"]["client"] == []
    result = run(hide, CLIENT, "-c", USE, DOCUMENT, base_url)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_command_line_of_a_client_needs_no_service(hide: Path, base_url: str) -> None:
    written = run(hide, CLI, "service", "ls", "--limit", "1", "--url", base_url)
    assert (written.returncode, written.stdout.split()[:2]) == (0, ["ID", "MODEL"])


@pytest.mark.parametrize(
    ("requirements", "words", "library", "extra"),
    [
        (CLIENT, ["service", "ls"], "typer", "cli"),
        (CLI, ["service", "serve"], "", "service"),
        (CLI, ["service", "keys", "create"], "opentelemetry", "service"),
        (CLI, ["service", "models", "--bundled"], "torch", "service"),
        (CLIENT, ["training", "fit"], "typer", "train"),
        (CLIENT, ["benchmarks"], "", "bench"),
    ],
)
def test_a_missing_extra_is_named(
    hide: Path, requirements: list[str], words: list[str], library: str, extra: str
) -> None:
    result = run(hide, requirements, *words)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {library}")
    assert result.stderr.endswith(
        f"is not installed; run in the checkout: pip install '.[{extra}]'\n"
    )
