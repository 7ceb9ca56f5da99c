"""The commands that describe, list and delete memories."""

from itertools import islice
from typing import Annotated

import typer

from service.client import DEFAULT_URL
from service.commands.options import AsJson, MemoryId, Url, connect
from service.commands.terminal import format_fields, parse_entry, print_memories


def show(memory_id: MemoryId, as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """Describe a memory."""
    with connect(url) as client:
        memory = client.memory(memory_id).describe()
    typer.echo(memory.model_dump_json() if as_json else format_fields(memory))


def list_memories(
    name: Annotated[str | None, typer.Option(help="Only memories of this name.")] = None,
    model: Annotated[str | None, typer.Option(help="Only memories of this checkpoint.")] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only memories with this entry; may be repeated."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most memories to print.")] = 100,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List memories, the newest first.

    Where there are more than the limit, a note on standard error says so.
    """
    entries = dict(map(parse_entry, metadata or []))
    with connect(url) as client:
        found = client.memories(name=name, model=model, metadata=entries)
        memories = list(islice(found, limit + 1))
    print_memories([memory.info for memory in memories[:limit]], as_json=as_json)
    if len(memories) > limit:
        typer.echo(f"note: there are more than {limit} memories; raise --limit", err=True)


def delete(
    memory_id: MemoryId,
    page: Annotated[
        str | None, typer.Option(metavar="PAGE", help="Delete only the page with this id.")
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Delete a memory for good."""
    with connect(url) as client:
        if page is None:
            client.memory(memory_id).delete()
        else:
            client.memory(memory_id).delete_page(page)
