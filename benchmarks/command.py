"""The frame of every measuring command: options, then rows, then a result with its tables.

A measurement is a function whose parameters are the command's options and which returns a
`Measurement`. To add one, write such a function, give its rows a class in `benchmarks.rows`, and
name it in `benchmarks.cli`.
"""

import inspect
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NoReturn, TypeAlias

import torch
import typer
from tqdm import tqdm

from benchmarks.report import render
from benchmarks.results import (
    RESULTS,
    ResultFile,
    Row,
    Subject,
    commit_of,
    make_result,
    save_result,
    this_machine,
)
from gradmem_core.errors import GradMemError, InputError
from service.client import ClientError

Topic: TypeAlias = Literal[
    "pairs", "stories", "records", "texts", "questions", "speed", "curves", "serving"
]
"Folders of `benchmarks/results`."
OUTPUT = typer.Option(
    metavar="NAME",
    help="Save the result as benchmarks/results/TOPIC/NAME.json, or under an absolute path.",
)
JSON = typer.Option("--json", help="Print the result file instead of its tables.")


@dataclass(frozen=True)
class Measurement:
    """Rows of one command, measured as they are asked for, and the result's other fields."""

    topic: Topic
    rows: Iterable[Row]
    subject: Subject | None = None
    "The checkpoint that is measured, if any."
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    notes: tuple[str, ...] = ()
    seed: int = 0
    "Seed of a measurement without an option for it."


def make_command(measure: Callable[..., Measurement]) -> Callable[..., None]:
    """Make a command of a function that measures.

    It has the function's parameters as options, `--output` and `--json`. An option `seed` becomes
    the result's seed.

    Args:
        measure: Begins the measurement.
    """

    def run(*, output: str | None, as_json: bool, **options: Any) -> None:  # noqa: ANN401
        # What is running then stops by itself: services and servers, too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        started, commit = time.perf_counter(), commit_of()  # of the code that is loaded
        with reported_errors():
            measurement = measure(**options)
            rows = list(tqdm(measurement.rows, unit="row", disable=None))
            if not rows:
                raise InputError("these options leave nothing to measure")
            result = make_result(
                rows,
                started=started,
                commit=commit,
                seed=options.get("seed", measurement.seed),
                machine=this_machine(measurement.device),
                subject=measurement.subject,
                notes=measurement.notes,
            )
            if output:
                save_result(RESULTS / measurement.topic / f"{output}.json", result)
        if as_json:
            typer.echo(result.model_dump_json(indent=2))
        else:
            typer.echo(render([ResultFile(output or "unsaved", result)]))

    own = inspect.signature(measure, eval_str=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter(
            "output", keyword, default=None, annotation=Annotated[str | None, OUTPUT]
        ),
        inspect.Parameter("as_json", keyword, default=False, annotation=Annotated[bool, JSON]),
    ]
    run.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=[*own.parameters.values(), *added], return_annotation=None
    )
    run.__doc__ = measure.__doc__
    return run


@contextmanager
def reported_errors() -> Iterator[None]:
    """End the command with an error's line on stderr: status 1 for a service's, 2 for others."""
    try:
        yield
    except ClientError as error:
        _fail(error, status=1)
    except (GradMemError, ArithmeticError) as error:
        _fail(error, status=2)


def _fail(error: Exception, *, status: int) -> NoReturn:
    typer.echo(f"error: {' '.join(str(error).split())}", err=True)
    raise typer.Exit(status) from error
