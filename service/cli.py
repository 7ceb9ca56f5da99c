"""`gradmem`: run the service, and write and read memories with it.

Results go to standard output, errors to standard error, one per line. Exit status: 0 success, 1 the
service failed, cannot be reached or cannot start, 2 the command cannot be carried out, 3 the memory
does not answer a query.
"""

import asyncio
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from gradmem_core.config import EmbedsForm
from service.client import (
    DEFAULT_URL,
    AccessDenied,
    Client,
    ClientError,
    Conflict,
    InvalidKey,
    InvalidRequest,
    NotFound,
)
from service.schemas import ModelCard
from service.settings import Settings, UnknownSettingError, refuse_unknown_names
from service.store_commands import keys, purge
from service.terminal import (
    EXIT_FAILED,
    EXIT_REFUSED,
    exit_if_unanswered,
    exit_on_service_errors,
    fail,
    format_card,
    format_fields,
    parse_entry,
    parse_steps,
    print_answers,
    print_memories,
    print_notes,
    read_document,
)

WAIT_POLICY = "PASSIVE"
"""OpenMP's threads sleep while they wait for each other. Where they spin instead, a gradient step
on cores that other programs use too takes many times as long (docs/LOG.md)."""

REFUSALS = (InvalidKey, AccessDenied, InvalidRequest, NotFound, Conflict, UnknownSettingError)
"Errors of commands that cannot be carried out."

# Plain help: docs/CLI.md is made from it. No tracebacks: they may hold documents.
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help=__doc__,
)

app.add_typer(keys, name="keys")
app.command()(purge)

Url = Annotated[
    str, typer.Option(envvar="GRADMEM_URL", metavar="URL", help="Base URL of the service.")
]
MemoryId = Annotated[str, typer.Argument(metavar="ID", help="The memory's id.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the whole result as a JSON object.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gradmem {version('gradmem')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 picks a free one.")] = None,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Checkpoint to serve, a folder or a bundled name; repeat to serve several.",
        ),
    ] = None,
    store_url: Annotated[
        str | None,
        typer.Option(
            help="Store of the memories: sqlite:///FILE, redis://... or rediss://..."
            " Set a URL with a password in GRADMEM_STORE_URL: others can see the command line."
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Device of the models: cpu or cuda.")] = None,
    insecure: Annotated[
        bool | None,
        typer.Option("--insecure", help="Let in anyone who reaches the address, without a key."),
    ] = None,
) -> None:
    """Run the service until it is stopped.

    Clients need a key as soon as there is one (`gradmem keys create`). Without any, the service
    listens on loopback addresses alone, which only this machine reaches, unless --insecure is set.

    Settings come from the environment (GRADMEM_HOST, GRADMEM_PORT, ...); options override them. The
    exit status is 1 if the address is taken or the store cannot be used, 2 if a setting is wrong.
    """
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "checkpoints": checkpoint,
        "store_url": store_url,
        "device": device,
        "insecure": insecure,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if checkpoint is not None:
        given["checkpoints_file"] = None
    with exit_on_service_errors():
        _run_service(given)


@app.command()
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
    document = read_document(file)
    with _connect(url) as client:
        memory = client.write(
            document,
            model=model,
            steps=number,
            ttl_seconds=ttl,
            name=name,
            metadata=entries,
            append_to=append_to,
            verify=verify,
        )
    print_notes(memory)
    typer.echo(memory.model_dump_json() if as_json else memory.memory_id)


@app.command("ask")
@app.command("read")
def read(
    memory_id: MemoryId,
    queries: Annotated[
        list[str],
        typer.Argument(
            metavar="QUERY", help="Queries; put -- before the first that begins with a dash."
        ),
    ],
    max_new_tokens: Annotated[
        int | None, typer.Option(metavar="TOKENS", help="Maximum length of an answer.")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="0, the default, takes the likeliest token; above 0, tokens are drawn."),
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Share of the probability mass to draw from.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed.")] = None,
    min_confidence: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Answers with less confidence, 0 to 1, count as not found; the checkpoint's own"
            " threshold by default.",
        ),
    ] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Answer queries from a memory alone; print one answer per line, in the order of the queries.

    The line of a query that the memory does not answer is empty; the exit status is then 3.
    """
    with _connect(url) as client:
        answers = client.read_many(
            memory_id,
            queries,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            min_confidence=min_confidence,
        )
    print_answers(answers, as_json=as_json)
    exit_if_unanswered(answers)


@app.command()
def show(memory_id: MemoryId, as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """Describe a memory."""
    with _connect(url) as client:
        memory = client.show(memory_id)
    typer.echo(memory.model_dump_json() if as_json else format_fields(memory))


@app.command("ls")
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
    with _connect(url) as client:
        found = client.memories(name=name, model=model, metadata=entries)
        memories = list(islice(found, limit + 1))
    print_memories(memories[:limit], as_json=as_json)
    if len(memories) > limit:
        typer.echo(f"note: there are more than {limit} memories; raise --limit", err=True)


@app.command()
def delete(
    memory_id: MemoryId,
    page: Annotated[
        str | None, typer.Option(metavar="PAGE", help="Delete only the page with this id.")
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Delete a memory for good."""
    with _connect(url) as client:
        if page is None:
            client.delete(memory_id)
        else:
            client.delete_page(memory_id, page)


@app.command()
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
    with _connect(url) as client:
        content = client.prompt_embeds(memory_id, page, query=query, form=form)
    try:
        prompt_embeds.write_bytes(content)
        prompt_embeds.chmod(0o600)
    except OSError as error:
        fail(f"cannot write {prompt_embeds}: {error.strerror}", EXIT_REFUSED)


@app.command()
def models(
    bundled: Annotated[
        bool,
        typer.Option(
            "--bundled",
            help="List the checkpoints that come with GradMem instead; needs no service.",
        ),
    ] = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List the checkpoints of the service and their purposes, the default first."""
    cards = _bundled_cards() if bundled else _served_cards(url)
    if as_json:
        typer.echo(json.dumps({"models": [card.model_dump(mode="json") for card in cards]}))
    else:
        typer.echo("\n\n".join(map(format_card, cards)))


@app.command()
def rekey(
    store_url: Annotated[
        str | None,
        typer.Option(help="Store of the memories; that of GRADMEM_STORE_URL by default."),
    ] = None,
) -> None:
    """Encrypt the memories in the store with the first of the keys.

    Keys are those of GRADMEM_ENCRYPTION_KEYS or GRADMEM_ENCRYPTION_KEY_FILE. Memories under the
    other keys and plain ones are encrypted anew; services may run meanwhile. A run that was
    interrupted is continued by the next. Exit status 1 means that some could not be read.
    """
    with exit_on_service_errors():
        asyncio.run(_rekey({} if store_url is None else {"store_url": store_url}))


async def _rekey(options: dict[str, Any]) -> None:
    from service.encryption import Keyring
    from service.encryption import rekey as rekey_store
    from service.stores import create_store

    refuse_unknown_names(os.environ)
    settings = Settings(**options)
    keyring = Keyring(settings.read_encryption_keys())
    async with create_store(settings.store_url, allow_eviction=True) as store:
        result = await rekey_store(store, keyring)
    typer.echo(f"encrypted {result.encrypted} memories; {result.current} had the key already")
    if result.unreadable:
        fail(
            f"{result.unreadable} memories could not be read: they are damaged, or their key is"
            " missing; keep the older keys",
            EXIT_FAILED,
        )


def _run_service(options: dict[str, Any]) -> None:
    # Read when torch is loaded, which takes seconds that only serving needs.
    os.environ.setdefault("OMP_WAIT_POLICY", WAIT_POLICY)
    from service.server import serve as run_server

    refuse_unknown_names(os.environ)
    run_server(Settings(**options))


@contextmanager
def _connect(url: str) -> Iterator[Client]:
    """Yield a client; turn its errors into exit statuses."""
    try:
        refuse_unknown_names(os.environ)
        with Client(url) as client:
            yield client
    except REFUSALS as error:
        fail(error, EXIT_REFUSED)
    except ClientError as error:
        fail(error, EXIT_FAILED)


def _served_cards(url: str) -> Sequence[ModelCard]:
    with _connect(url) as client:
        return client.models()


def _bundled_cards() -> Sequence[ModelCard]:
    from service.models import bundled_cards  # loads torch

    return bundled_cards()


if __name__ == "__main__":
    app()
