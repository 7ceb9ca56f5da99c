"""Commands of `gradmem-bench` and the results that they print."""

from typing import TypeVar

from typer.testing import CliRunner
from typer.testing import Result as Finished

from benchmarks.cli import app
from benchmarks.results import Result, ResultFile, Row, rows_of

R = TypeVar("R", bound=Row)


def invoke(*arguments: object) -> Finished:
    """Run a command."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def measure(*arguments: object) -> Result:
    """Run a measuring command; return its result."""
    finished = invoke(*arguments, "--json")
    assert finished.exit_code == 0, finished.output or repr(finished.exception)
    return Result.model_validate_json(finished.stdout)


def measure_rows(kind: type[R], *arguments: object) -> list[R]:
    """Run a measuring command; return its rows of a kind."""
    return [row for _, row in rows_of(kind, [ResultFile("measured", measure(*arguments))])]
