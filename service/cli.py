"""`gradmem`: run the service, and write and read memories with it.

Every command prints its result on standard output, and an error as one line on standard error. Exit
status: 0 done, 1 the service cannot be reached or failed, 2 what was asked for cannot be done, 3 a
query is not answered by the memory that was read.
"""

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, cast

import typer
from pydantic import BaseModel, ValidationError

from gradmem_core.errors import DeviceLostError, GradMemError, StoreUnavailableError
from service.client import (
    DEFAULT_URL,
    Client,
    ClientError,
    Conflict,
    InvalidRequest,
    NotFound,
)
from service.schemas import MemoryInfo, ModelCard, ReadResponse, Reason

FAILED = 1
REFUSED = 2
MISSING = 3
SPIN_COUNT = "20000"
"""How often libgomp's threads look for each other before they sleep. As often as it would by itself
makes two threads crawl on cores that others use too, twice as long as this; on idle cores it is no
faster (docs/LOG.md)."""
SAID_OF: dict[Reason, str] = {"not stated": "not in memory", "below threshold": "not sure enough"}
DOCUMENTS = {"text": "plain text", "records": "lines of key and value"}

# Plain help: the reference in docs/CLI.md is made of it. No tracebacks with documents in them.
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help=__doc__,
)

Url = Annotated[
    str, typer.Option(envvar="GRADMEM_URL", metavar="URL", help="Base URL of the service.")
]
MemoryId = Annotated[str, typer.Argument(metavar="ID", help="A memory's handle.")]
Json = Annotated[bool, typer.Option("--json", help="Print the whole result as one JSON object.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gradmem {version('gradmem')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
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
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A folder or a bundled name; repeat it to serve several."
        ),
    ] = None,
    store_url: Annotated[
        str | None,
        typer.Option(
            help="Where memories are kept: sqlite:///FILE, redis://... or rediss://..."
            " Give one with a password by GRADMEM_STORE_URL: others can see the command line."
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where the models run: cpu or cuda.")] = None,
) -> None:
    """Run the service until it is stopped.

    Settings come from the environment (GRADMEM_HOST, GRADMEM_PORT, ...); options override them.
    """
    # Read when torch is loaded, which takes seconds that only serving needs.
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    from service.server import serve as run_server
    from service.settings import Settings

    given: dict[str, Any] = {
        "host": host,
        "port": port,
        "checkpoints": checkpoint,
        "store_url": store_url,
        "device": device,
    }
    try:
        run_server(Settings(**{name: value for name, value in given.items() if value is not None}))
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        _fail(f"setting {'.'.join(map(str, first['loc']))}: {first['msg']}", REFUSED)
    except (StoreUnavailableError, DeviceLostError) as error:
        _fail(error, FAILED)
    except (GradMemError, ValueError) as error:
        _fail(error, REFUSED)


def _steps(text: str) -> int | str:
    if text != "auto" and not text.isdecimal():
        raise typer.BadParameter(f"{text!r} is neither a number nor auto")
    return text if text == "auto" else int(text)


@app.command()
def write(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="A document in UTF-8, or - for standard input. One newline at its end is not part"
            " of the document.",
        ),
    ],
    model: Annotated[str | None, typer.Option(help="Checkpoint that writes it.")] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            metavar="K", help="Gradient steps, or auto for as many as still help.", parser=_steps
        ),
    ] = None,
    ttl: Annotated[
        int | None, typer.Option(metavar="SECONDS", help="Delete the memory after that long.")
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Kept with the memory; may be repeated."),
    ] = None,
    append_to: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Add the document to this memory."),
    ] = None,
    verify: Annotated[
        bool, typer.Option(help="Read back what was written; write weak pages again in halves.")
    ] = True,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Compress a document into a memory and print the memory's id.

    What the memory may not give back is noted on standard error, by line.
    """
    document = _document(file)
    entries = dict(_entry(text) for text in metadata or [])
    with _service(url) as client:
        memory = client.write(
            document,
            model=model,
            steps=cast("int | Literal['auto'] | None", steps),
            ttl_seconds=ttl,
            metadata=entries,
            append_to=append_to,
            verify=verify,
        )
    for key in memory.duplicate_keys:
        typer.echo(f"note: {key!r} stands there more than once; its last value was kept", err=True)
    for line in memory.skipped_lines:
        typer.echo(f"note: line {line} is no record and was left out", err=True)
    if weak := _weak_lines(memory):
        typer.echo(f"note: little came back of line {', '.join(map(str, weak))}", err=True)
    typer.echo(memory.model_dump_json() if as_json else memory.memory_id)


@app.command("ask")
@app.command("read")
def read(
    memory_id: MemoryId,
    queries: Annotated[
        list[str],
        typer.Argument(metavar="QUERY", help="Put -- before one that begins with a dash."),
    ],
    max_new_tokens: Annotated[
        int | None, typer.Option(metavar="TOKENS", help="Most tokens of an answer.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 takes the likeliest token, above draws.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Share of the probability mass to draw from.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the draws.")] = None,
    min_confidence: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Answers of less confidence, 0 to 1, count as not found; the checkpoint's own"
            " bound by default.",
        ),
    ] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Answer queries from a memory alone; print one answer a line, in the order of the queries.

    The line of a query that the memory does not answer is empty; the exit status is then 3.
    """
    with _service(url) as client:
        answers = client.read_many(
            memory_id,
            queries,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            min_confidence=min_confidence,
        )
    if as_json:
        typer.echo(
            ReadResponse(
                answers=answers, tokens=sum(answer.tokens for answer in answers)
            ).model_dump_json()
        )
    else:
        typer.echo("\n".join(answer.answer or "" for answer in answers))
    missing = [(answer.reason, answer.query) for answer in answers if answer.reason is not None]
    for reason, query in missing:
        typer.echo(f"{SAID_OF[reason]}: {query}", err=True)
    if missing:
        raise typer.Exit(MISSING)


@app.command()
def show(memory_id: MemoryId, as_json: Json = False, url: Url = DEFAULT_URL) -> None:
    """Print what is known of a memory."""
    with _service(url) as client:
        memory = client.show(memory_id)
    typer.echo(memory.model_dump_json() if as_json else _lines(memory))


@app.command()
def delete(
    memory_id: MemoryId,
    page: Annotated[
        str | None, typer.Option(metavar="PAGE", help="Delete only this page of it.")
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Delete a memory for good."""
    with _service(url) as client:
        if page is None:
            client.delete(memory_id)
        else:
            client.delete_page(memory_id, page)


@app.command()
def export(
    memory_id: MemoryId,
    prompt_embeds: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Safetensors file to write, `prompt_embeds` of (m, d)."),
    ],
    page: Annotated[
        str | None, typer.Option(metavar="PAGE", help="Which page, where there are several.")
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Save a memory as other engines read it: vLLM takes it as prompt embeddings.

    The file is as secret as the document. docs/PRETRAINED.md says how to use it.
    """
    with _service(url) as client:
        content = client.prompt_embeds(memory_id, page)
    try:
        prompt_embeds.write_bytes(content)
        prompt_embeds.chmod(0o600)
    except OSError as error:
        _fail(f"cannot write {prompt_embeds}: {error.strerror}", REFUSED)


@app.command()
def models(
    bundled: Annotated[
        bool,
        typer.Option("--bundled", help="Those that GradMem brings, to serve by name; asks nobody."),
    ] = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Print which checkpoints the service has, the default first: what each is for."""
    cards: Sequence[ModelCard]
    if bundled:
        from service.models import bundled_cards

        cards = bundled_cards()
    else:
        with _service(url) as client:
            cards = client.models()
    if as_json:
        typer.echo(json.dumps({"models": [card.model_dump(mode="json") for card in cards]}))
    else:
        typer.echo("\n\n".join(map(_card_lines, cards)))


@contextmanager
def _service(url: str) -> Iterator[Client]:
    """A client whose errors end the program."""
    try:
        with Client(url) as client:
            yield client
    except (InvalidRequest, NotFound, Conflict) as error:
        _fail(error, REFUSED)
    except ClientError as error:
        _fail(error, FAILED)


def _weak_lines(memory: MemoryInfo) -> list[int]:
    """Lines of which less than half came back when they were read back."""
    return sorted(
        {line for page in memory.pages if page.read_back for line in page.read_back.weak_lines}
    )


def _document(file: str) -> str:
    """The text of a file, or of standard input, without one newline at its end."""
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        text = content.decode("utf-8-sig")  # editors of Windows put a mark in front
    except OSError as error:
        _fail(f"cannot read {file}: {error.strerror}", REFUSED)
    except UnicodeDecodeError as error:
        _fail(f"{file} is not UTF-8 at byte {error.start}", REFUSED)
    return re.sub(r"\r?\n\Z", "", text)


def _entry(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        _fail("--metadata has to be KEY=VALUE", REFUSED)
    return key, value


def _card_lines(card: ModelCard) -> str:
    return (
        f"{card.name}: {card.purpose or 'its makers have not said what it is for'}\n"
        f"  documents: {DOCUMENTS[card.document_format]}\n"
        f"  example: {json.dumps(card.example_document, ensure_ascii=False)}\n"
        f"  asked: {card.example_query}\n"
        f"  answer: {card.example_answer}"
    )


def _lines(result: BaseModel) -> str:
    fields = result.model_dump(mode="json")
    return "\n".join(
        f"{name}: {value if isinstance(value, str) else json.dumps(value)}"
        for name, value in fields.items()
    )


def _fail(error: Exception | str, status: int) -> NoReturn:
    typer.echo(f"error: {' '.join(str(error).split())}", err=True)
    raise typer.Exit(status)


if __name__ == "__main__":
    app()
