"""The frame of measuring commands."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner
from typer.testing import Result as Finished

from benchmarks import command
from benchmarks.cli import MEASUREMENTS
from benchmarks.command import Measurement, make_command
from benchmarks.options import Seed, Steps
from benchmarks.results import load_result, rows_of
from benchmarks.rows import TrainingLoss
from gradmem_core.errors import DataError
from service.client import ConnectionFailed
from tests.benchmarks.commands import invoke


def measure_loss(steps: Steps = (2, 3), seed: Seed = 7) -> Measurement:
    """Measure made-up losses."""

    def rows() -> Iterator[TrainingLoss]:
        for k in steps:
            if k == 13:
                raise DataError("there is no step 13")
            if k == 14:
                raise ArithmeticError("gradients\ndiffer")
            if k == 15:
                raise ConnectionFailed("no service")
            yield TrainingLoss(run="made up", task="kv", part=k, parts=20, loss=seed / k)

    return Measurement("curves", rows(), notes=("step 13 is left out",))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Finished]:
    """Runs the made-up command, whose results go to `results`."""
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
    app = typer.Typer(rich_markup_mode=None)
    app.command()(make_command(measure_loss))
    return lambda *arguments: CliRunner().invoke(app, [str(word) for word in arguments])


def test_a_result_is_printed_and_saved(run: Callable[..., Finished], tmp_path: Path) -> None:
    printed = json.loads(run("--steps", "4, 5", "--seed", "8", "--output", "a", "--json").stdout)
    assert (printed["seed"], printed["notes"]) == (8, ["step 13 is left out"])
    file = load_result(tmp_path / "results" / "curves" / "a.json")
    assert file.result.model_dump(mode="json") == printed
    assert [(row.part, row.loss) for _, row in rows_of(TrainingLoss, [file])] == [(4, 2), (5, 1.6)]


def test_an_absolute_path_is_taken_as_it_is(run: Callable[..., Finished], tmp_path: Path) -> None:
    assert run("--output", tmp_path / "elsewhere" / "b").exit_code == 0
    assert len(load_result(tmp_path / "elsewhere" / "b.json").result.rows) == 2


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--steps", "2,13"], 2, "error: there is no step 13\n"),
        (["--steps", "14"], 2, "error: gradients differ\n"),
        (["--steps", "15"], 1, "error: no service\n"),
        (["--steps", ""], 2, "error: these options leave nothing to measure\n"),
        (["--steps", "2,no"], 2, "'no' is not a number from 1"),
        (["--steps", "0"], 2, "'0' is not a number from 1"),
        (["--seed", "-1"], 2, "--seed"),
    ],
)
def test_what_cannot_be_measured_is_refused_and_not_saved(
    run: Callable[..., Finished], tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    refused = run(*arguments, "--output", "c")
    assert refused.exit_code == status
    assert message in refused.stderr
    assert not refused.stdout
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_every_measurement_has_the_common_options(name: str) -> None:
    shown = invoke(name, "--help")
    assert shown.exit_code == 0
    assert "--output NAME" in shown.stdout
    assert "--json" in shown.stdout
    assert str(Path(__file__).parents[2]) not in shown.stdout  # a machine's path
