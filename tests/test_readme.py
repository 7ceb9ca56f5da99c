"""The README's commands run as they are written, and the tables of cards are those of result files.

What a checkpoint answers is not asserted here: better weights will come.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.report import tables
from benchmarks.report.measured import as_written, fixed, measured
from benchmarks.report.tables_records import records_tables
from benchmarks.training_results import Accuracy, RecordsResult, load_results
from gradmem_core.checkpoints.checkpoint import load_checkpoint
from gradmem_core.checkpoints.manifest import BUNDLED
from service.client import Client
from service.schemas import ReadResponse, WriteResult

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", README, re.DOTALL)
SERVE, ASK, CURL, PYTHON, TRAIN = (text for _, text in BLOCKS)


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
                deadline = time.monotonic() + 600  # the first time a backbone is imported
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
    assert re.search(r"^\d+ of 15 answers are right, \d+ wrong, \d+ refused", result.stdout, re.M)
    assert result.stdout.index("answers are right") < result.stdout.index("KV cache")


def test_command_line_block(folder: Path, environment: dict[str, str]) -> None:
    answers, _, shown = run(ASK, folder, environment).partition("memory_id: ")
    assert answers.splitlines()[0]
    assert len(answers.splitlines()) > 1
    fields = dict(line.split(": ", 1) for line in shown.splitlines()[1:])
    assert fields["model"] == "prose"
    assert 0 <= float(fields["read_back"]) <= 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl_block(folder: Path, environment: dict[str, str]) -> None:
    url = environment["GRADMEM_URL"]
    written = ASK.partition("id=$(")[0] + "id=$(.venv/bin/gradmem write notes.md)\n"
    said = run(written + CURL.replace("localhost:8080", url), folder, environment)
    memory, read = said.split('}{"answers"')
    assert WriteResult.model_validate_json(memory + "}").expires_at is not None
    (answer,) = ReadResponse.model_validate_json('{"answers"' + read).answers
    assert answer.found == (answer.reason is None)


def test_python_block(folder: Path, environment: dict[str, str]) -> None:
    run(ASK.partition("id=$(")[0], folder, environment)
    script = PYTHON.replace("Client()", f"Client({environment['GRADMEM_URL']!r})")
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    first, *answers = result.stdout.splitlines()
    assert re.match(r"\d+% of the words", first)
    assert [float(line.split()[-1]) >= 0 for line in answers] == [True, True]


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
