"""The command line of `gradmem bench`."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from gradmem_core.errors import GradMemError, InputError
from service.client import ClientError

FAILED = 1
REFUSED = 2


def bench(
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A running service; one is started by default."),
    ] = None,
    checkpoint: Annotated[
        str, typer.Option(metavar="NAME", help="A folder or a bundled name.")
    ] = "kv-32",
    only: Annotated[
        str, typer.Option(metavar="SECTIONS", help="What to measure, separated by commas.")
    ] = "write,read,context,device,overload,growth",
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Length of one load measurement, in seconds.")
    ] = 10,
    overload_seconds: Annotated[
        float, typer.Option(min=0.1, help="Length of the overload, in seconds.")
    ] = 60,
    requests: Annotated[
        int, typer.Option(min=1, help="Requests of the growth measurement.")
    ] = 100_000,
    runs: Annotated[int, typer.Option(min=1, help="How often each is measured.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of documents and arrivals.")] = 1,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Result file to write.")
    ] = None,
) -> None:
    """Measure the service and print the figures, as Markdown.

    Through HTTP the service runs in a process of its own; in-process figures, those of the device
    and ratios between them are of this machine, which should have nothing else to do.
    """
    from benchmarks.measurement import (  # torch takes seconds that only this needs
        save_result,
        this_command,
    )
    from benchmarks.report.serving import page
    from benchmarks.serving.plan import SECTIONS, Plan
    from benchmarks.serving.run import run

    # What is running then stops by itself: the service that was started for the benchmark, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        names = [name.strip() for name in only.split(",")]
        unknown = ", ".join(name for name in names if name not in SECTIONS)
        if unknown:
            raise InputError(f"--only: {unknown}: take some of {', '.join(SECTIONS)}")
        plan = Plan(
            checkpoint=checkpoint,
            url=url,
            sections=[name for name in SECTIONS if name in names],
            seconds=seconds,
            overload_seconds=overload_seconds,
            requests=requests,
            runs=runs,
            seed=seed,
        )
        result = run(plan, command=this_command(), tell=lambda name: typer.echo(name, err=True))
        if json_file:
            save_result(json_file, result)
    except ClientError as error:
        _fail(error, FAILED)
    except (GradMemError, ArithmeticError) as error:
        _fail(error, REFUSED)
    else:
        typer.echo(page([result]), nl=False)


def _fail(error: Exception, status: int) -> None:
    typer.echo(f"error: {' '.join(str(error).split())}", err=True)
    raise typer.Exit(status) from error
