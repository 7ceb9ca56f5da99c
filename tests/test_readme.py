"""The README's commands run as they are written, and its table is that of the result file."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gradmem_core.checkpoint import BUNDLED, load_checkpoint
from service.client import Client
from training import tables
from training.measured import as_written, fixed, measured
from training.results import Accuracy, RecordsResult, load_results
from training.tables_records import by_kind, records_tables

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", README, re.DOTALL)
SERVE, ASK, PYTHON, TRAIN = (text for _, text in BLOCKS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like the checkout, in which commands may leave files."""
    for name in ("scripts", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for program in ("python", "gradmem", "gradmem-train"):
        (tmp_path / ".venv" / "bin" / program).symlink_to(Path(sys.executable).with_name(program))
    return tmp_path


@pytest.fixture
def environment(folder: Path) -> Iterator[dict[str, str]]:
    """The service as the README starts it, on a port that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {"GRADMEM_PORT": str(port), "GRADMEM_URL": url}
    environment |= {"GRADMEM_STORE_URL": f"sqlite:///{folder}/gradmem.db"}
    with subprocess.Popen(["bash", "-c", f"exec {SERVE}"], cwd=folder, env=environment) as process:
        try:
            with Client(url) as client:
                deadline = time.monotonic() + 120
                while not client.ready():
                    assert process.poll() is None, "the service ended"
                    assert time.monotonic() < deadline, "the service is not ready"
                    time.sleep(0.1)
            yield environment
        finally:
            process.terminate()


def run(script: str, folder: Path, environment: dict[str, str]) -> str:
    command = ["bash", "-euo", "pipefail", "-c", script]
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_two_commands_stand_at_the_top() -> None:
    assert README.startswith("# GradMem\n\n    ./scripts/demo\n    ./scripts/test\n")


def test_demo() -> None:
    result = subprocess.run(
        ["./scripts/demo"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Canberra" in result.stdout
    assert "(not in memory)" in result.stdout
    assert "KV cache" in result.stdout


def test_command_line_block(folder: Path, environment: dict[str, str]) -> None:
    said = run(ASK, folder, environment).splitlines()
    assert said[:4] == ["4711#", "bob@example.org", "", "Carol is not there"]


def test_python_block(environment: dict[str, str]) -> None:
    script = PYTHON.replace("Client()", f"Client({environment['GRADMEM_URL']!r})")
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"4711# [01]\.\d+\nnot there [01]\.\d+\n", result.stdout)


def test_training_block_with_a_small_budget(folder: Path) -> None:
    script = TRAIN.replace("scripts/setup train", "")
    script = script.replace("fit kv-16", "fit kv-16 --set budget_tokens=400 --set threads=1")
    script = script.replace("--contexts 200", "--contexts 2")
    assert '"exact_match"' in run(script, folder, dict(os.environ))


@pytest.mark.parametrize("name", ["kv-16", "kv-32", "kv-48"])
def test_table_is_that_of_the_result_file(name: str) -> None:
    fingerprint = load_checkpoint(BUNDLED / name).fingerprint
    files = [
        file
        for file in load_results(ROOT / "docs" / "results")
        if isinstance(file.result, Accuracy) and file.result.fingerprint == fingerprint
    ]
    table = tables.grid(fixed(as_written(measured(files)))).markdown
    assert table in (BUNDLED / name / "README.md").read_text()


def test_tables_of_records_are_those_of_the_result_file() -> None:
    fingerprint = load_checkpoint("records").fingerprint
    files = [
        file
        for file in load_results(ROOT / "docs" / "results")
        if isinstance(file.result, RecordsResult) and file.result.fingerprint == fingerprint
    ]
    card = (BUNDLED / "records" / "README.md").read_text()
    assert records_tables(files) in card
    assert by_kind(files, "shape").markdown in README
    assert by_kind(files, "list").markdown in README
