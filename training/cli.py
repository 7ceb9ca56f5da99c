"""`gradmem-train`: make a checkpoint and train it."""

from pathlib import Path
from typing import Annotated

import typer

from gradmem_core.errors import GradMemError, InputError
from training.cli_pretrained import import_gguf, init
from training.loop.parallel import leave
from training.loop.start import load_subject
from training.loop.trainer import Trainer
from training.problems import fail
from training.recipes.loading import load_recipe
from training.seeds import stream
from training.tasks import build_task

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
    """Train a recipe, or continue the run in its folder; the result is OUTPUT/checkpoint.

    Several processes: torchrun --no-python --nproc-per-node 2 gradmem-train fit RECIPE
    """
    try:
        loaded = load_recipe(recipe, override or [])
        folder = output or Path("runs") / loaded.name
        trainer = Trainer(loaded, folder)
        trainer.fit()
    except GradMemError as error:
        fail(error)
    finally:
        leave()
    if trainer.processes.first:
        typer.echo(f"checkpoint: {folder / 'checkpoint'}")


@app.command()
def sample(
    task: Annotated[str | None, typer.Argument(help="Name of the task.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of its files.")] = None,
    *,
    recipe: Annotated[
        str | None, typer.Option(help="In place of a task: what a recipe trains on, for a mixture.")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="dotted.field=value, in place of the recipe's."),
    ] = None,
    size: Annotated[int, typer.Option(min=1, help="Size, in the task's own unit.")],
    count: Annotated[int, typer.Option(min=1, help="Documents to draw.")] = 3,
    queries: Annotated[int, typer.Option(min=1, help="Questions about each.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 0,
) -> None:
    """Print training documents of a task with questions and what they should be answered."""
    try:
        if (task is None) == (recipe is None):
            raise InputError("give either a task or --recipe")
        if recipe is not None:
            source = load_subject(load_recipe(recipe, override or [])).task
        else:
            source = build_task(task or "", data)
        for number in range(count):
            drawn = source.sample(stream("train", seed, number), size=size, queries=queries)
            typer.echo(drawn.context)
            for question in drawn.questions:
                typer.echo(f"    {question.query!r} -> {question.target!r}")
    except GradMemError as error:
        fail(error)


app.command()(init)
app.command("import-gguf")(import_gguf)
