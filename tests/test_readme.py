"""The README's commands run as they are written.

The answers of a checkpoint are not asserted here: better weights will come.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.serving.process import await_service
from service.client import Client
from service.schemas import ReadResponse, WriteResult

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", README, re.DOTALL)
SERVE, ASK, CURL, PYTHON, TRAIN = (text for _, text in BLOCKS)
NOTES = ASK.partition("id=$(")[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the checkout, in which commands may leave files."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("scripts", "pyproject.toml", "constraints.txt"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv" / "bin").mkdir(parents=True)
    for program in ("python", "gradmem", "gradmem-train", "gradmem-bench"):
        (folder / ".venv" / "bin" / program).symlink_to(Path(sys.executable).with_name(program))
    return folder


@pytest.fixture(scope="module")
def environment(folder: Path) -> Iterator[dict[str, str]]:
    """The service as the README starts it, on a free port."""
    environment = os.environ | {"GRADMEM_STORE_URL": f"sqlite:///{folder}/gradmem.db"}
    with subprocess.Popen(
        ["bash", "-c", f"exec {SERVE}"],
        cwd=folder,
        env=environment | {"GRADMEM_PORT": "0"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            url = await_service(process)  # takes long: the first start imports a backbone
            yield environment | {"GRADMEM_URL": url}
        finally:
            process.terminate()


def run(script: str, folder: Path, environment: dict[str, str]) -> str:
    command = ["bash", "-euo", "pipefail", "-c", script]
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_stranger_reads_three_sentences_then_the_two_commands() -> None:
    title, introduction, commands, *_ = README.split("\n\n")
    assert title == "# GradMem"
    assert len(re.findall(r"\.(?=\s|$)", introduction)) == 3
    assert commands == "    ./scripts/demo\n    ./scripts/test"


def test_it_is_short() -> None:
    assert len(README.split()) < 900


@pytest.mark.slow
def test_demo() -> None:
    result = subprocess.run(
        ["./scripts/demo"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^\d+ of 15 answers are right, \d+ wrong, \d+ refused", result.stdout, re.M)
    assert result.stdout.index("answers are right") < result.stdout.index("KV cache")


@pytest.mark.slow
def test_command_line_block(folder: Path, environment: dict[str, str]) -> None:
    answers, _, shown = run(ASK, folder, environment).partition("memory_id: ")
    assert answers.splitlines()[0]
    assert len(answers.splitlines()) > 1
    fields = dict(line.split(": ", 1) for line in shown.splitlines()[1:])
    assert fields["model"] == "prose"
    assert 0 <= float(fields["read_back"]) <= 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl_block(folder: Path, environment: dict[str, str]) -> None:
    url = environment["GRADMEM_URL"]
    with Client(url) as client:
        memory_id = client.write("Its roof was repaired.", verify=False).memory_id
    script = f"id={memory_id}\n" + CURL.replace("localhost:8080", url)
    output = run(script, folder, environment)
    memory, read = output.split('}{"answers"')
    assert WriteResult.model_validate_json(memory + "}").expires_at is not None
    (answer,) = ReadResponse.model_validate_json('{"answers"' + read).answers
    assert answer.found == (answer.reason is None)


@pytest.mark.slow
def test_python_block(folder: Path, environment: dict[str, str]) -> None:
    run(NOTES, folder, environment)
    script = PYTHON.replace("Client()", f"Client({environment['GRADMEM_URL']!r})")
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    answers = result.stdout.splitlines()
    assert [0 <= float(line.split()[-1]) <= 1 for line in answers] == [True, True]


@pytest.mark.slow
def test_training_block_with_a_small_budget(folder: Path) -> None:
    script = TRAIN.replace("scripts/setup bench", "")
    script = script.replace("fit kv-16", "fit kv-16 --set budget_tokens=400 --set threads=1")
    script = script.replace("--contexts 200", "--contexts 2")
    assert "**Exact match**" in run(script, folder, dict(os.environ))
