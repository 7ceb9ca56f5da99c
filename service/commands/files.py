"""`gradmem export` and `gradmem import`."""

import os
import stat
import sys
from typing import Annotated
from uuid import uuid4

import typer

from gradmem_core.config import EmbedsForm
from service.client import DEFAULT_URL, ClientError, PatchOptions
from service.commands.options import MemoryArgument, Metadata, Name, Ttl, Url, connect
from service.commands.terminal import EXIT_REFUSED, fail, parse_metadata, read_bytes


def export_memory(
    memory_id: MemoryArgument,
    file: Annotated[str, typer.Argument(metavar="FILE", help="File to write, or - for output.")],
    prompt_embeds: Annotated[
        bool,
        typer.Option(
            "--prompt-embeds",
            help="For other engines: vectors (m, d), which vLLM takes as prompt embeddings.",
        ),
    ] = False,
    page: Annotated[
        str | None,
        typer.Option(metavar="PAGE", help="Id of the page, if the memory has several."),
    ] = None,
    query: Annotated[
        str | None,
        typer.Option(help="Query to add, as a whole prompt: (m + tokens, d)."),
    ] = None,
    form: Annotated[
        EmbedsForm | None,
        typer.Option(
            help="A safetensors file with the tensor `prompt_embeds`, the default, or JSON for"
            " vLLM's server: the field of a request to /v1/completions, or a part of a chat"
            " message's content."
        ),
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Save a memory to a file.

    `gradmem import` takes it; with --prompt-embeds, vLLM does. The file is as
    secret as the document. docs/PRETRAINED.md describes the use with vLLM.
    """
    if not prompt_embeds and (page or query or form):
        fail("--page, --query and --form go with --prompt-embeds", EXIT_REFUSED)
    with connect(url) as client:
        memory = client.memory(memory_id)
        if prompt_embeds:
            content = memory.prompt_embeds(page, query=query, form=form or "safetensors")
        else:
            content = memory.export()
    _save(file, content)


def import_memory(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="File of `gradmem export`, or - for input.")
    ],
    memory_id: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="Id of the memory; a new one by default."),
    ] = None,
    name: Name = None,
    metadata: Metadata = None,
    ttl: Ttl = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Store a memory from a file; print its id.

    A file has neither name, metadata nor expiry: options set them. The checkpoint that wrote
    the memory has to be served.
    """
    changes = PatchOptions()
    if name is not None:
        changes["name"] = name
    if metadata:
        changes["metadata"] = {**parse_metadata(metadata)}
    if ttl is not None:
        changes["ttl_seconds"] = ttl
    content = read_bytes(file)
    with connect(url) as client:
        memory = client.import_memory(memory_id or uuid4().hex, content)
        try:
            if changes:
                memory.patch(**changes)
        except ClientError:
            if memory_id is None:  # nobody would know the id
                memory.delete()
            raise
    typer.echo(memory.memory_id)


def _save(file: str, content: bytes) -> None:
    """Write a file that only its owner may read; a device or a pipe stays as it is."""
    if file == "-":
        sys.stdout.buffer.write(content)
        return
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.fchmod(descriptor, 0o600)  # an existing file has the mode that it had
            opened.write(content)
    except OSError as error:
        fail(f"cannot write {file}: {error.strerror}", EXIT_REFUSED)
