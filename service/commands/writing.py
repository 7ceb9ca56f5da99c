"""`gradmem write` and `gradmem replace`."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

import typer

from service.client import DEFAULT_URL, Client, Stream, WriteOptions
from service.client.memories import WriteEvent
from service.commands.options import AsJson, MemoryArgument, Metadata, Name, Ttl, Url, connect
from service.commands.progress import show_progress
from service.commands.terminal import (
    EXIT_REFUSED,
    fail,
    parse_metadata,
    parse_steps,
    print_json,
    print_notes,
    read_document,
)
from service.schemas import StepEvent, WriteResult

Steps = Annotated[
    str | None,
    typer.Option(
        metavar="K",
        help="Gradient steps, or auto for as many as reduce the loss; the checkpoint's own"
        " number by default.",
    ),
]
Verify = Annotated[
    bool,
    typer.Option(
        help="Read the memory back, and write pages that come back poorly again, in halves."
    ),
]


def write(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE",
            help="Documents in UTF-8, or - for standard input. A single newline at the end of one"
            " is dropped.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="Checkpoint that writes; the service's first by default."),
    ] = None,
    steps: Steps = None,
    ttl: Ttl = None,
    name: Name = None,
    metadata: Metadata = None,
    append: Annotated[
        bool, typer.Option("--append", help="Write all documents into one memory.")
    ] = False,
    append_to: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Add the documents to this memory."),
    ] = None,
    verify: Verify = True,
    job: Annotated[
        bool,
        typer.Option("--job", help="Have the documents written later; print the id of the job."),
    ] = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Compress documents into memories; print their ids.

    Each document becomes a memory of its own, unless --append or --append-to is given. With --json
    each memory is a line. Warnings about lines that a memory may not give back go to
    standard error. If a document is refused, those before it are written.
    """
    # Options first: standard input may take long, or wait for a person.
    number = parse_steps(steps)
    entries = parse_metadata(metadata)
    if append_to is not None and (model or ttl or name or entries):
        fail(
            "--append-to excludes --model, --ttl, --name and --metadata: the memory keeps its own",
            EXIT_REFUSED,
        )
    if job and (append or append_to):
        fail("--job excludes --append and --append-to", EXIT_REFUSED)
    options = WriteOptions(
        model=model, steps=number, ttl_seconds=ttl, name=name, metadata=entries, verify=verify
    )
    documents = [(file, read_document(file)) for file in files]
    with connect(url) as client:
        if job:
            info = client.submit([document for _, document in documents], **options).info
            typer.echo(info.model_dump_json() if as_json else info.job_id)
        else:
            _write_all(client, documents, options, append_to, append=append, as_json=as_json)


def replace(
    memory_id: MemoryArgument,
    page: Annotated[str, typer.Argument(metavar="PAGE", help="The page's id, as shown.")],
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="The new text in UTF-8, or - for standard input.")
    ],
    steps: Steps = None,
    verify: Verify = True,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Write a page of a memory again, from a new text.

    Its id and the other pages stay.
    """
    number = parse_steps(steps)
    document = read_document(file)
    with connect(url) as client:
        memory = client.memory(memory_id)
        result = memory.replace_page(page, document, steps=number, verify=verify)
    print_notes(result)
    _print_memory(result, as_json=as_json)


def _write_all(
    client: Client,
    documents: Sequence[tuple[str, str]],
    options: WriteOptions,
    append_to: str | None,
    *,
    append: bool,
    as_json: bool,
) -> None:
    """Write documents, which come with their files; print each memory, or the one of all."""
    appended: WriteResult | None = None
    try:
        with show_progress(len(documents)) as report:
            for done, (file, document) in enumerate(documents):
                stream = _open_stream(client, document, options, append_to)
                memory = _follow(stream, partial(report, done), file)
                print_notes(memory)
                if append:
                    append_to = memory.memory_id
                if append_to is None:
                    _print_memory(memory, as_json=as_json)
                else:
                    appended = memory
    finally:  # also where a document is refused: those before it are in the memory
        if appended is not None:
            _print_memory(appended, as_json=as_json)


def _open_stream(
    client: Client, document: str, options: WriteOptions, append_to: str | None
) -> Stream[WriteEvent, WriteResult]:
    """Return the stream of a WRITE, into a memory of its own or into one that is there."""
    if append_to is None:
        return client.write_stream(document, **options)
    return client.memory(append_to).append_stream(
        document, steps=options.get("steps"), verify=options.get("verify")
    )


def _follow(
    stream: Stream[WriteEvent, WriteResult], report: Callable[[str], object], file: str
) -> WriteResult:
    """Report the steps of a stream; return its result."""
    report(file)
    with stream:
        for event in stream:
            if isinstance(event, StepEvent):
                report(f"{file}: page {event.page + 1}, step {event.step}, loss {event.loss:.2f}")
        return stream.result()


def _print_memory(memory: WriteResult, *, as_json: bool) -> None:
    if as_json:
        print_json(memory)
    else:
        typer.echo(memory.memory_id)
