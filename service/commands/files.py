"""The commands that save memories to files."""

from pathlib import Path
from typing import Annotated

import typer

from gradmem_core.config import EmbedsForm
from service.client import DEFAULT_URL
from service.commands.options import MemoryId, Url, connect
from service.commands.terminal import EXIT_REFUSED, fail


def export(
    memory_id: MemoryId,
    prompt_embeds: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="File to write; with the tensor `prompt_embeds`, (m, d), in safetensors.",
        ),
    ],
    page: Annotated[
        str | None,
        typer.Option(metavar="PAGE", help="Id of the page, if the memory has several."),
    ] = None,
    query: Annotated[
        str | None,
        typer.Option(help="Query to add, as a whole prompt: (m + tokens, d)."),
    ] = None,
    form: Annotated[
        EmbedsForm,
        typer.Option(
            help="A safetensors file, or JSON for vLLM's server: the field of a request to"
            " /v1/completions, or a part of a chat message's content."
        ),
    ] = "safetensors",
    url: Url = DEFAULT_URL,
) -> None:
    """Save a memory for other engines: vLLM takes it as prompt embeddings.

    The file is as secret as the document. docs/PRETRAINED.md describes its use.
    """
    with connect(url) as client:
        content = client.memory(memory_id).prompt_embeds(page, query=query, form=form)
    try:
        prompt_embeds.write_bytes(content)
        prompt_embeds.chmod(0o600)
    except OSError as error:
        fail(f"cannot write {prompt_embeds}: {error.strerror}", EXIT_REFUSED)
