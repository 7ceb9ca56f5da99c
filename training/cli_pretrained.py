"""`gradmem-train init` and `import-gguf`: checkpoints of models that others trained."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from gradmem_core.backbone import Backbone
from gradmem_core.checkpoints.folders import atomic_folder
from gradmem_core.config import AdapterConfig, MemoryConfig, Phases
from gradmem_core.errors import GradMemError, InputError
from gradmem_core.tokenizer import Tokenizer
from training.checkpoints.pretrained import Origin, init_checkpoint
from training.problems import fail


def init(
    backbone: Annotated[Path, typer.Option(help="Hugging Face folder: model and tokenizer.")],
    output: Annotated[Path, typer.Option(help="Folder of the checkpoint.")],
    task: Annotated[str, typer.Option(help="prose, squad, short-squad, text or babi.")] = "text",
    memory_tokens: Annotated[int, typer.Option(help="Vectors in a memory (m).")] = 32,
    write_steps: Annotated[int, typer.Option(help="Gradient steps of a WRITE (K).")] = 5,
    max_write_steps: Annotated[int, typer.Option(help="Most that a caller may ask for.")] = 20,
    inner_learning_rate: Annotated[
        float, typer.Option(help="Step size of WRITE, learned per element from there.")
    ] = 1.0,
    inner_gradient_clip: Annotated[
        float, typer.Option(help="Largest norm of a memory's gradient in a step.")
    ] = 0.1,
    adapter_rank: Annotated[
        int | None, typer.Option(help="Rank of adapters on the linear layers; none by default.")
    ] = None,
    adapter_phases: Annotated[
        Phases, typer.Option(help="When they are on: write, read or both.")
    ] = "write",
    projection: Annotated[bool, typer.Option(help="A linear map on the memory.")] = True,
    write_head: Annotated[
        bool, typer.Option(help="An output head of its own for WRITE: as large as the model's.")
    ] = False,
    max_context_tokens: Annotated[int, typer.Option(help="Longest document.")] = 256,
    max_query_tokens: Annotated[int, typer.Option(help="Longest query, with its template.")] = 96,
    max_answer_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 64,
    query_template: Annotated[
        str | None,
        typer.Option(
            help="What stands around {query}, or `chat` for the tokenizer's own template; the"
            " task's by default."
        ),
    ] = None,
    layers: Annotated[int | None, typer.Option(help="Keep the first blocks alone.")] = None,
    inside: Annotated[
        bool, typer.Option("--inside", help="Store the backbone inside the checkpoint.")
    ] = False,
    write_side: Annotated[
        Path | None,
        typer.Option(help="A checkpoint on this backbone whose M0 and write side to take."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the initial memory.")] = 0,
) -> None:
    """Make a checkpoint of a pretrained model, to start training from.

    The checkpoint names the backbone's folder with its hash; with --inside or --layers it holds the
    backbone itself.
    """
    try:
        try:
            config = MemoryConfig(
                memory_tokens=memory_tokens,
                write_steps=write_steps,
                max_write_steps=max_write_steps,
                inner_learning_rate=inner_learning_rate,
                inner_learning_rate_per_element=True,
                inner_gradient_clip=inner_gradient_clip,
                write_head=write_head,
                adapter=(
                    None
                    if adapter_rank is None
                    else AdapterConfig(rank=adapter_rank, phases=adapter_phases)
                ),
                memory_projection=projection,
                max_context_tokens=max_context_tokens,
                max_query_tokens=max_query_tokens,
                max_answer_tokens=max_answer_tokens,
            )
        except ValidationError as error:
            first = error.errors()[0]
            option = str(first["loc"][0]).replace("_", "-")
            raise InputError(f"--{option}: {first['msg']}") from error
        origin = Origin(backbone, task, query_template, layers, inside, write_side)
        fingerprint = init_checkpoint(output, origin, config, seed=seed)
    except GradMemError as error:
        fail(error)
    typer.echo(f"checkpoint: {output} ({fingerprint[:12]})")


def import_gguf(
    file: Annotated[Path, typer.Argument(help="The GGUF file.")],
    output: Annotated[Path, typer.Argument(help="Folder to write: model and tokenizer.")],
) -> None:
    """Convert a GGUF file into an ordinary Hugging Face folder, in float32."""
    try:
        backbone, tokenizer = Backbone.from_gguf(file), Tokenizer.from_gguf(file)
        with atomic_folder(output) as made:
            backbone.save(made)
            tokenizer.save(made)
    except GradMemError as error:
        fail(error)
    typer.echo(f"model: {output}")
