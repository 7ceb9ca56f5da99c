"""`gradmem-train`: make a checkpoint and train it."""

from pathlib import Path
from typing import Annotated

import typer

from gradmem_core.backbone import Backbone
from gradmem_core.checkpoints.folders import atomic_folder
from gradmem_core.errors import GradMemError, InputError
from gradmem_core.tokenizer import Tokenizer
from training.checkpoints.pretrained import Origin, build_memory_config, init_checkpoint
from training.loop.data import load_training_data
from training.loop.parallel import leave_processes
from training.loop.phases import fit_phases
from training.problems import fail
from training.recipes.loading import load_phases, load_recipe
from training.runs import CHECKPOINT, RUNS
from training.seeds import stream
from training.tasks import build_task

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="dotted.field=value, to override the recipe."),
]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help=__doc__,
)


@app.command()
def fit(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A TOML file, or the name of a bundled recipe; RECIPE:PHASE for one of its phases."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="Folder of the run; by default runs/NAME.")
    ] = None,
    override: Overrides = None,
) -> None:
    """Train a recipe, or continue the run in its folder; the result is OUTPUT/checkpoint.

    Several processes: torchrun --no-python --nproc-per-node 2 gradmem-train fit RECIPE
    """
    try:
        phases = load_phases(recipe, override or [])
        folder = output or RUNS / phases[-1].recipe.name
        trainer = fit_phases(phases, folder)
    except GradMemError as error:
        fail(error)
    finally:
        leave_processes()
    if trainer.processes.first:
        typer.echo(f"checkpoint: {folder / CHECKPOINT}")


@app.command()
def sample(
    task: Annotated[str | None, typer.Argument(help="Name of the task.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of its files.")] = None,
    *,
    recipe: Annotated[
        str | None, typer.Option(help="Recipe to use instead of a task; needed for a mixture.")
    ] = None,
    override: Overrides = None,
    size: Annotated[int, typer.Option(min=1, help="Size, in the task's own unit.")],
    count: Annotated[int, typer.Option(min=1, help="Number of documents.")] = 3,
    queries: Annotated[int, typer.Option(min=1, help="Questions about each document.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
) -> None:
    """Print training documents of a task with their questions and answers."""
    try:
        if (task is None) == (recipe is None):
            raise InputError("give either a task or --recipe")
        if recipe is not None:
            source = load_training_data(load_recipe(recipe, override or [])).task
        else:
            source = build_task(task or "", data)
        for number in range(count):
            example = source.sample(stream("train", seed, number), size=size, queries=queries)
            typer.echo(example.context)
            for question in example.questions:
                typer.echo(f"    {question.query!r} -> {question.target!r}")
    except GradMemError as error:
        fail(error)


@app.command()
def init(
    backbone: Annotated[
        Path,
        typer.Option(exists=True, file_okay=False, help="Hugging Face folder: model, tokenizer."),
    ],
    output: Annotated[Path, typer.Option(help="Folder of the checkpoint.")],
    task: Annotated[str, typer.Option(help="prose, squad, short-squad, text or babi.")] = "text",
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="field=value of the memory's settings, for instance memory_tokens=8 or"
            " adapter.rank=8.",
        ),
    ] = None,
    query_template: Annotated[
        str | None,
        typer.Option(
            help="Text around {query}, or `chat` for the tokenizer's own template; by default the"
            " task's."
        ),
    ] = None,
    layers: Annotated[
        int | None, typer.Option(help="First blocks to keep; all by default.")
    ] = None,
    inside: Annotated[
        bool, typer.Option("--inside", help="Store the backbone inside the checkpoint.")
    ] = False,
    write_side: Annotated[
        Path | None,
        typer.Option(help="Take M0 and the write side from this checkpoint on the same backbone."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the initial memory.")] = 0,
) -> None:
    """Make a checkpoint from a pretrained model, to start training from.

    The checkpoint names the backbone's folder with its hash; with --inside or --layers it holds the
    backbone itself.
    """
    try:
        config = build_memory_config(override or [])
        origin = Origin(backbone, task, query_template, layers, inside, write_side)
        fingerprint = init_checkpoint(output, origin, config, seed=seed)
    except GradMemError as error:
        fail(error)
    typer.echo(f"checkpoint: {output} ({fingerprint[:12]})")


@app.command()
def import_gguf(
    file: Annotated[Path, typer.Argument(help="The GGUF file.")],
    output: Annotated[Path, typer.Argument(help="Folder to write: model and tokenizer.")],
) -> None:
    """Convert a GGUF file into an ordinary Hugging Face folder, in float32."""
    try:
        backbone, tokenizer = Backbone.from_gguf(file), Tokenizer.from_gguf(file)
        with atomic_folder(output) as folder:
            backbone.save(folder)
            tokenizer.save(folder)
    except GradMemError as error:
        fail(error)
    typer.echo(f"model: {output}")
