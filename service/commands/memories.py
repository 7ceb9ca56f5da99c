"""The commands that describe, list, change and delete memories."""

import sys
from datetime import datetime
from itertools import islice
from typing import Annotated

import typer

from service.client import DEFAULT_URL, Client, FilterOptions, NotFound, PatchOptions
from service.commands.options import AsJson, MemoryArgument, Metadata, Name, Url, connect
from service.commands.terminal import (
    EXIT_REFUSED,
    fail,
    format_count,
    parse_metadata,
    print_fields,
    print_json,
    print_memories,
)

OfName = Annotated[str | None, typer.Option("--name", help="Only memories of this name.")]
OfModel = Annotated[str | None, typer.Option("--model", help="Only memories of this checkpoint.")]
OfMetadata = Annotated[
    list[str] | None,
    typer.Option(
        "--metadata", metavar="KEY=VALUE", help="Only memories with this entry; may be repeated."
    ),
]
ExpiresBefore = Annotated[
    datetime | None,
    typer.Option(metavar="TIME", help="Only memories that expire before this time, local."),
]


def show(memory_id: MemoryArgument, as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """Describe a memory."""
    with connect(url) as client:
        memory = client.memory(memory_id).describe()
    print_fields(memory, as_json=as_json)


def list_memories(
    name: OfName = None,
    model: OfModel = None,
    metadata: OfMetadata = None,
    expires_before: ExpiresBefore = None,
    limit: Annotated[int, typer.Option(min=1, help="Most memories to print.")] = 100,
    ids: Annotated[bool, typer.Option("--ids", help="Print the ids alone, one per line.")] = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List memories, the newest first.

    Where there are more than the limit, a note on standard error says so.
    """
    wanted = _make_filter(name, model, metadata, expires_before)
    with connect(url) as client:
        found = [memory.info for memory in islice(client.memories(**wanted), limit + 1)]
    if ids:
        for memory in found[:limit]:
            typer.echo(memory.memory_id)
    else:
        print_memories(found[:limit], as_json=as_json)
    if len(found) > limit:
        typer.echo(f"note: there are more than {limit} memories; raise --limit", err=True)


def remove(
    memory_ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="The memories' ids.")
    ] = None,
    page: Annotated[
        str | None, typer.Option(metavar="PAGE", help="Delete only this page of the memory.")
    ] = None,
    name: OfName = None,
    model: OfModel = None,
    metadata: OfMetadata = None,
    expires_before: ExpiresBefore = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before a filter.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Delete memories for good: those named, or all that pass a filter.

    A filter asks first, with the number of memories; where nobody can answer, it needs --yes. An id
    that is not there is an error, but does not keep the others.
    """
    wanted = _make_filter(name, model, metadata, expires_before)
    if bool(memory_ids) == bool(wanted):
        fail("name memories by their ids, or give a filter such as --name", EXIT_REFUSED)
    if page is not None and (memory_ids is None or len(memory_ids) != 1):
        fail("--page needs the id of its memory", EXIT_REFUSED)
    with connect(url) as client:
        if page is not None and memory_ids:
            client.memory(memory_ids[0]).delete_page(page)
        elif memory_ids:
            _delete(client, memory_ids)
        else:
            _delete_filtered(client, wanted, sure=yes)


def patch(
    memory_id: MemoryArgument,
    name: Name = None,
    no_name: Annotated[bool, typer.Option("--no-name", help="Remove the name.")] = False,
    metadata: Metadata = None,
    remove_metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Remove this entry; may be repeated."),
    ] = None,
    ttl: Annotated[
        int | None,
        typer.Option(metavar="SECONDS", help="Time from now until the memory is deleted."),
    ] = None,
    no_ttl: Annotated[bool, typer.Option("--no-ttl", help="Keep the memory for good.")] = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Change the name, the metadata or the expiry of a memory."""
    changes = PatchOptions()
    if name is not None or no_name:
        changes["name"] = name
    if ttl is not None or no_ttl:
        changes["ttl_seconds"] = ttl
    if metadata or remove_metadata:
        changes["metadata"] = {**parse_metadata(metadata), **dict.fromkeys(remove_metadata or [])}
    if not changes or (name is not None and no_name) or (ttl is not None and no_ttl):
        fail("name one change of the name, the metadata or the expiry each", EXIT_REFUSED)
    with connect(url) as client:
        memory = client.memory(memory_id).patch(**changes)
    if as_json:
        print_json(memory)


def _make_filter(
    name: str | None,
    model: str | None,
    metadata: list[str] | None,
    expires_before: datetime | None,
) -> FilterOptions:
    """Return the conditions that are given."""
    wanted = FilterOptions()
    if name is not None:
        wanted["name"] = name
    if model is not None:
        wanted["model"] = model
    if metadata:
        wanted["metadata"] = parse_metadata(metadata)
    if expires_before is not None:
        wanted["expires_before"] = expires_before.astimezone()
    return wanted


def _delete(client: Client, memory_ids: list[str]) -> None:
    """Delete memories by their ids; exit at the end if one is not there.

    One request for each: the number that `delete_many` returns is too low after a lost response.
    """
    missing = []
    for memory_id in dict.fromkeys(memory_ids):
        try:
            client.memory(memory_id).delete()
        except NotFound:
            missing.append(memory_id)
    if missing:
        fail(f"no such memory, or it has expired: {', '.join(missing)}", EXIT_REFUSED)


def _delete_filtered(client: Client, wanted: FilterOptions, *, sure: bool) -> None:
    """Delete the memories that pass a filter, once a person has agreed."""
    if not sure:
        count = sum(1 for _ in client.memories(**wanted))
        found = format_count(count, "memory")
        if not sys.stdin.isatty():
            fail(f"this would delete {found} for good; add --yes", EXIT_REFUSED)
        if not count or not typer.confirm(f"Delete {found} for good?", err=True):
            typer.echo("deleted 0 memories")
            return
    typer.echo(f"deleted {format_count(client.delete_many(**wanted), 'memory')}")
