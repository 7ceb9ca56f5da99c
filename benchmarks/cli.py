"""`gradmem-bench`: measure the service, its answers and its training, and report."""

import time
from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from benchmarks.accuracy.exact_match import Grid, measure
from benchmarks.accuracy.reconstruction import TextPlan, measure_text
from benchmarks.accuracy.records import Plan, measure_records, parse_shape
from benchmarks.curves import read_curve
from benchmarks.measurement import as_json, save_result, this_command
from benchmarks.report.page import checkpoint_tables
from benchmarks.report.page import report as report_of
from benchmarks.report.tables_records import records_tables
from benchmarks.report.tables_text import text_tables
from benchmarks.serving.command import bench as bench_serving
from benchmarks.speed.training_step import bench
from benchmarks.training_results import (
    ResultFile,
    load_result,
    load_results,
)
from gradmem_core.config import BlobDtype
from gradmem_core.errors import GradMemError, InputError
from training.problems import fail
from training.writers import WriteSteps

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help=__doc__,
)


@app.command()
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="A folder, or the name of a bundled one.")],
    task: Annotated[
        str | None, typer.Option(help="Name of the task; the checkpoint's own by default.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the task's files.")] = None,
    rival: Annotated[
        str | None,
        typer.Option(
            help="In place of the memory: full-context, first-tokens (as many as the memory has"
            " vectors) or no-context, on the checkpoint's backbone."
        ),
    ] = None,
    pairs: Annotated[
        str,
        typer.Option(
            "--sizes", "--pairs", help="Sizes of contexts, for instance 4,8,16 pairs of `kv`."
        ),
    ] = "16",
    contexts: Annotated[int, typer.Option(min=1, help="Contexts to write.")] = 200,
    queries: Annotated[int, typer.Option(min=1, help="Queries for each context.")] = 16,
    steps: Annotated[
        str | None,
        typer.Option(
            help="Write steps (K), for instance 1,2,5,auto; the checkpoint's own by default."
        ),
    ] = None,
    blob: Annotated[
        str | None,
        typer.Option(
            help="Store memories before they are read, for instance float32,float16,int8; by"
            " default they are read as written."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the test split.")] = 7,
    output: Annotated[Path | None, typer.Option(help="Result file (JSON) to write.")] = None,
    json_out: Annotated[bool, typer.Option("--json", help="Print the result file.")] = False,
) -> None:
    """Measure exact match on contexts that no training or selection stream can hold.

    Every number of pairs is measured with every K and every kind of blob.
    """
    try:
        grid = Grid(
            sizes=_numbers("--pairs", pairs),
            write_steps=[_steps(part) for part in steps.split(",")] if steps else None,
            blobs=[_blob(part) for part in blob.split(",")] if blob else [None],
            contexts=contexts,
            queries=queries,
        )
        result = measure(
            checkpoint, task, grid, seed=seed, command=this_command(), data=data, rival=rival
        )
        if output:
            save_result(output, result)
    except GradMemError as error:
        fail(error)
    measured = [ResultFile(checkpoint, result)]
    table = text_tables(measured) or checkpoint_tables(measured)
    typer.echo(as_json(result) if json_out else table, nl=not json_out)


@app.command("evaluate-records")
def evaluate_records(
    checkpoint: Annotated[str, typer.Argument(help="A folder, or the name of a bundled one.")],
    shapes: Annotated[
        str, typer.Option(help="RECORDSxKEY+VALUE, most characters of each; separated by commas.")
    ] = "8x8+8,8x10+10,16x10+10,8x16+32",
    pages: Annotated[
        str, typer.Option(help="Documents of that many times the records of --page-shape.")
    ] = "1,2,4,8,16",
    page_shape: Annotated[str, typer.Option(help="Records of a page.")] = "16x10+10",
    lists: Annotated[
        Path | None, typer.Option(help="Folder of real lists (*.txt), for instance docs/lists.")
    ] = None,
    contexts: Annotated[int, typer.Option(min=1, help="Documents of each shape.")] = 100,
    steps: Annotated[str, typer.Option(help="Write steps (K), for instance 2,5.")] = "5",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the test split.")] = 7,
    output: Annotated[Path | None, typer.Option(help="Result file (JSON) to write.")] = None,
) -> None:
    """Measure a checkpoint for lists of records, by the path that serving takes.

    Every key of each document is asked for, and as many keys that are not there.
    """
    try:
        plan = Plan(
            shapes=[parse_shape(part) for part in shapes.split(",") if part],
            pages=[_number("--pages", part) for part in pages.split(",") if part],
            page_shape=parse_shape(page_shape),
            lists=lists,
            write_steps=_numbers("--steps", steps),
            contexts=contexts,
        )
        result = measure_records(checkpoint, plan, seed=seed, command=this_command())
        if output:
            save_result(output, result)
    except GradMemError as error:
        fail(error)
    typer.echo(records_tables([ResultFile(checkpoint, result)]))


@app.command()
def reconstruct(
    checkpoint: Annotated[str, typer.Argument(help="A folder, or the name of a bundled one.")],
    data: Annotated[Path, typer.Option(help="Folder with test.txt.")],
    tokens: Annotated[str, typer.Option(help="Lengths of the texts.")] = "16,32,64",
    steps: Annotated[str, typer.Option(help="Write steps (K).")] = "1,2,5,10,20",
    pieces: Annotated[int, typer.Option(min=1, help="Texts of each length.")] = 8,
    adam: Annotated[
        bool, typer.Option("--adam", help="Write by Adam at a rate of 0.02, for what is untrained.")
    ] = False,
    query: Annotated[
        str | None, typer.Option(help="Decode after this query; right behind the memory without.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the test split.")] = 7,
    output: Annotated[Path | None, typer.Option(help="Result file (JSON) to write.")] = None,
) -> None:
    """Measure how many tokens of a text greedy decoding recovers from its memory."""
    try:
        plan = TextPlan(
            data=data,
            tokens=_numbers("--tokens", tokens),
            write_steps=_numbers("--steps", steps),
            pieces=pieces,
            inner="adam" if adam else "gradient",
            query=query,
        )
        result = measure_text(checkpoint, plan, seed=seed, command=this_command())
        if output:
            save_result(output, result)
    except GradMemError as error:
        fail(error)
    typer.echo(text_tables([ResultFile(checkpoint, result)]))


app.command("training-step")(bench)
app.command("serving")(bench_serving)


@app.command()
def curve(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.")],
    output: Annotated[
        Path | None, typer.Option(help="Result file (JSON); docs/results/curve-NAME.json.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the run; the folder's by default.")
    ] = None,
) -> None:
    """Read a training run's curve, its evaluations on the selection split, into a result file."""
    started = time.perf_counter()
    name = name or run.resolve().name
    path = output or Path("docs/results") / f"curve-{name}.json"
    try:
        save_result(path, read_curve(run, name=name, command=this_command(), started=started))
    except GradMemError as error:
        fail(error)
    typer.echo(path)


@app.command()
def report(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Result files whose tables to print.")
    ] = None,
    results: Annotated[Path, typer.Option(help="Folder of result files.")] = Path("docs/results"),
    output: Annotated[Path, typer.Option(help="The page.")] = Path("docs/RESULTS.md"),
) -> None:
    """Make the page of results and its pictures out of a folder of result files.

    With FILES it prints their checkpoints' tables instead: exact match (%) over pairs and K, or
    those of lists of records with the first wrong answers.
    """
    try:
        if files:
            loaded = [load_result(path) for path in files]
            typer.echo(records_tables(loaded) or text_tables(loaded) or checkpoint_tables(loaded))
        else:
            report_of(load_results(results)).save(output)
            typer.echo(output)
    except GradMemError as error:
        fail(error)


def _number(option: str, text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise InputError(f"{option}: {text!r} is not a number from 1")
    return int(text)


def _numbers(option: str, text: str) -> list[int]:
    return [_number(option, part) for part in text.split(",")]


def _steps(text: str) -> WriteSteps:
    return "auto" if text.strip() == "auto" else _number("--steps", text)


def _blob(text: str) -> BlobDtype:
    if text.strip() not in get_args(BlobDtype):
        raise InputError(f"--blob: {text!r} is not one of {', '.join(get_args(BlobDtype))}")
    return cast("BlobDtype", text.strip())
