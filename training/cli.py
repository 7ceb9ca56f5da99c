"""`gradmem-train`: train a checkpoint and measure it."""

import json
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from gradmem_core.errors import GradMemError
from training.evaluate import evaluate as score_of
from training.recipe import load_recipe
from training.report import load_results, table
from training.tasks import task_by_name
from training.trainer import Trainer
from training.writers import load_writer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help=__doc__,
)


@app.command()
def fit(
    recipe: Annotated[str, typer.Argument(help="A TOML file, or the name of a bundled recipe.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder of the run; by default runs/NAME.")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="dotted.field=value, in place of the recipe's."),
    ] = None,
) -> None:
    """Train a recipe, or continue the run in its folder; the result is OUTPUT/checkpoint."""
    try:
        loaded = load_recipe(recipe, override or [])
        folder = output or Path("runs") / loaded.name
        Trainer(loaded, folder).fit()
    except GradMemError as error:
        _fail(error)
    typer.echo(f"checkpoint: {folder / 'checkpoint'}")


@app.command()
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="A folder, or the name of a bundled one.")],
    task: Annotated[str, typer.Option(help="Name of the task.")] = "kv",
    pairs: Annotated[int, typer.Option(min=1, help="Pairs in a context.")] = 16,
    contexts: Annotated[int, typer.Option(min=1, help="Contexts to write.")] = 200,
    queries: Annotated[int, typer.Option(min=1, help="Queries for each context.")] = 16,
    steps: Annotated[
        int | None, typer.Option(help="Write steps (K); the checkpoint's own by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the test split.")] = 7,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure exact match on contexts that no training or selection stream can hold."""
    try:
        loaded = load_writer(checkpoint)
        default = getattr(loaded.writer.config, "write_steps", 1)
        write_steps = default if steps is None else steps
        score = score_of(
            loaded.writer,
            loaded.tokenizer,
            task_by_name(task),
            size=pairs,
            contexts=contexts,
            queries=queries,
            write_steps=write_steps,
            seed=seed,
            split="test",
        )
    except GradMemError as error:
        _fail(error)
    result = {
        "task": task,
        "pairs": pairs,
        "contexts": contexts,
        "queries": queries,
        "write_steps": write_steps,
        "exact_match": score.exact_match,
        "token_accuracy": score.token_accuracy,
        "checkpoint": loaded.name,
        "fingerprint": loaded.fingerprint,
        "seed": seed,
        "seconds": round(score.seconds, 3),
    }
    lines = [f"{name}: {value}" for name, value in result.items()]
    typer.echo(json.dumps(result) if as_json else "\n".join(lines))


@app.command()
def report(
    results: Annotated[Path, typer.Argument(help="JSON lines of evaluate --json.")],
) -> None:
    """Print the table of exact match (%) over pairs and write steps, as Markdown."""
    try:
        typer.echo(table(load_results(results)))
    except GradMemError as error:
        _fail(error)


def _fail(error: GradMemError) -> NoReturn:
    typer.echo(f"error: {error}", err=True)
    raise typer.Exit(2)
