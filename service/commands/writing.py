"""`gradmem write`."""

from typing import Annotated

import typer

from service.client import DEFAULT_URL
from service.commands.options import AsJson, Url, connect
from service.commands.terminal import (
    EXIT_REFUSED,
    fail,
    parse_entry,
    parse_steps,
    print_notes,
    read_document,
)


def write(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="Document in UTF-8, or - for standard input. A single newline at its end is"
            " dropped.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="Checkpoint that writes; the service's first by default."),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            metavar="K",
            help="Gradient steps, or auto for as many as reduce the loss; the checkpoint's own"
            " number by default.",
        ),
    ] = None,
    ttl: Annotated[
        int | None,
        typer.Option(metavar="SECONDS", help="Time until the memory is deleted; never by default."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the memory, for lists.")] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Entry to store with the memory; may be repeated."),
    ] = None,
    append_to: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Add the document to this memory."),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            help="Read the memory back, and write pages that come back poorly again, in halves."
        ),
    ] = True,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Compress a document into a memory and print the memory's id.

    Warnings about lines that the memory may not give back go to standard error.
    """
    # Options first: standard input may take long, or wait for a person.
    number = parse_steps(steps)
    entries = dict(map(parse_entry, metadata or []))
    if append_to is not None and (model or ttl or name or entries):
        fail(
            "--append-to excludes --model, --ttl, --name and --metadata: the memory keeps its own",
            EXIT_REFUSED,
        )
    document = read_document(file)
    with connect(url) as client:
        if append_to is None:
            memory = client.write(
                document,
                model=model,
                steps=number,
                ttl_seconds=ttl,
                name=name,
                metadata=entries,
                verify=verify,
            ).info
        else:
            memory = client.memory(append_to).append(document, steps=number, verify=verify)
    print_notes(memory)
    typer.echo(memory.model_dump_json() if as_json else memory.memory_id)
