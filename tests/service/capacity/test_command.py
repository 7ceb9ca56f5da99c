"""`gradmem plan` on the command line."""

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from service.capacity.constants import FILE
from service.cli import app
from tests.service.examples import read_examples

SMALL = "plan --documents-per-second 2 --reads-per-second 3 --tokens 100 --model kv-96"


def run(line: str) -> Result:
    return CliRunner().invoke(app, shlex.split(line))


def test_the_example_of_the_page_runs() -> None:
    (example,) = read_examples("SCALING.md", "bash")
    done = run(example.removeprefix("gradmem "))
    assert done.exit_code == 0, done.output
    assert "what gives way first" in done.output


def test_programs_get_the_whole_plan() -> None:
    plan = json.loads(run(f"{SMALL} --json --price 2").output)
    assert plan["model"] == "kv-96"
    assert plan["write"]["devices"] >= 1
    assert plan["write"]["cost_per_million"] == pytest.approx(
        2 * plan["write"]["device_hours_per_million"]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--device h9000", "there are no constants of the device 'h9000'"),
        ("--utilisation 1.5", "utilisation: Input should be less than 1"),
        ("--write-p99 0.000001", "allow more, or send less at a time"),
        ("--constants missing.json", "missing.json cannot be read"),
        ("--model nothing", "there is no checkpoint 'nothing'"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(options: str, message: str) -> None:
    done = run(f"{SMALL} {options}")
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_constants_of_another_device_are_read_from_a_file(tmp_path: Path) -> None:
    constants = json.loads(FILE.read_text())
    constants["devices"] = {"own": constants["devices"]["cpu"]}
    (tmp_path / "own.json").write_text(json.dumps(constants))
    done = run(f"{SMALL} --constants {tmp_path / 'own.json'} --device own")
    assert done.exit_code == 0, done.output
