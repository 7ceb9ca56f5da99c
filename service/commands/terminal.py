"""The input and output of the command line."""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NoReturn

import typer
from pydantic import BaseModel, ValidationError
from rich.cells import cell_len

from gradmem_core.errors import DeviceLostError, GradMemError, StoreUnavailableError
from service.schemas import (
    AnswerInfo,
    MemorySummary,
    ModelCard,
    ReadResponse,
    Reason,
    WriteResult,
)
from service.settings import StartError

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_REFUSED = 2
EXIT_UNANSWERED = 3
REASONS: dict[Reason, str] = {
    "not stated": "not in memory",
    "below threshold": "not confident enough",
}
DOCUMENT_FORMATS = {"text": "plain text", "records": "lists of `key: value` lines"}


def read_document(file: str) -> str:
    """Return the text of a file or of standard input, without a single newline at its end."""
    try:
        # Windows editors put a byte order mark in front.
        text = read_bytes(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fail(f"{file} is not UTF-8 at byte {error.start}", EXIT_REFUSED)
    return re.sub(r"\r?\n\Z", "", text)


def read_bytes(file: str) -> bytes:
    """Return the content of a file or of standard input."""
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        fail(f"cannot read {file}: {error.strerror}", EXIT_REFUSED)


def read_lines() -> Iterator[str]:
    """Yield the lines of standard input as they come, without blank ones."""
    for line in sys.stdin:
        if line.strip():
            yield line.rstrip("\r\n")


def parse_steps(text: str | None) -> int | Literal["auto"] | None:
    """Parse a number of gradient steps, or `auto`."""
    if text is None:
        return None
    if text == "auto":
        return "auto"
    if not text.isdecimal():
        raise typer.BadParameter(f"{text!r} is neither a number nor auto", param_hint="--steps")
    return int(text)


def parse_metadata(texts: Sequence[str] | None) -> dict[str, str]:
    """Split each KEY=VALUE; exit where there is no equals sign."""
    entries = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals:
            fail("--metadata must be KEY=VALUE", EXIT_REFUSED)
        entries[key] = value
    return entries


def print_notes(memory: WriteResult) -> None:
    """Note what was left out of a memory, and the lines that it may not give back."""
    for key in memory.duplicate_keys:
        typer.echo(f"note: {key!r} occurs more than once; only its last value was kept", err=True)
    for line in memory.skipped_lines:
        typer.echo(f"note: line {line} is not a record and was skipped", err=True)
    if weak := memory.weak_lines:
        typer.echo(
            f"note: READ recalls less than half of line {', '.join(map(str, weak))}", err=True
        )


def print_answers(answers: list[AnswerInfo], *, as_json: bool) -> None:
    """Print an answer a line, empty where there is none, or all of them as JSON."""
    if as_json:
        tokens = sum(answer.tokens for answer in answers)
        print_json(ReadResponse(answers=answers, tokens=tokens))
    else:
        typer.echo("\n".join(answer.answer or "" for answer in answers))


def print_memories(memories: Sequence[MemorySummary], *, as_json: bool) -> None:
    """Print a table of memories, or all of them as JSON."""
    if as_json:
        print_json_list("memories", memories)
        return
    print_table(
        ("ID", "MODEL", "CREATED", "EXPIRES", "NAME", "METADATA"),
        [
            (
                memory.memory_id,
                memory.model,
                format_time(memory.created_at),
                format_time(memory.expires_at),
                memory.name or "-",
                " ".join(f"{key}={value}" for key, value in memory.metadata.items()),
            )
            for memory in memories
        ],
    )


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows below their heads, aligned as a terminal shows them and never cut off."""
    lines = [heads, *([_on_a_line(cell) for cell in row] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (
            cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True)
        )
        typer.echo("  ".join(cells).rstrip())


def print_json(model: BaseModel) -> None:
    """Print a model as a line of JSON."""
    typer.echo(model.model_dump_json())


def print_json_list(name: str, models: Sequence[BaseModel]) -> None:
    """Print models as a line of JSON, a list under a name."""
    typer.echo(json.dumps({name: [model.model_dump(mode="json") for model in models]}))


def print_fields(model: BaseModel, *, as_json: bool) -> None:
    """Print the fields of a model, a line each, or as JSON."""
    if as_json:
        print_json(model)
        return
    for name, value in model.model_dump(mode="json").items():
        typer.echo(f"{name}: {_on_a_line(value) if isinstance(value, str) else json.dumps(value)}")


def format_count(number: int, noun: str) -> str:
    """Return a number and its noun, which is given in the singular."""
    plural = re.sub(r"(?<![aeiou])y$", "ie", noun) + "s"
    return f"{number} {noun if number == 1 else plural}"


def format_time(moment: datetime | None) -> str:
    """Return a time as RFC 3339 has it, in UTC to the second."""
    return "-" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _on_a_line(text: str) -> str:
    """Escape what would break a line, or do something to a terminal."""
    return "".join(
        character if character.isprintable() else repr(character)[1:-1] for character in text
    )


def exit_if_unanswered(answers: list[AnswerInfo]) -> None:
    """Report the queries without an answer, and exit where there are any."""
    unanswered = [answer for answer in answers if not answer]
    for answer in unanswered:
        print_refusal(answer)
    if unanswered:
        raise typer.Exit(EXIT_UNANSWERED)


def print_refusal(answer: AnswerInfo) -> None:
    """Report that a query has no answer."""
    reason = "not answered" if answer.reason is None else REASONS[answer.reason]
    typer.echo(f"{reason}: {answer.query}", err=True)


def format_card(card: ModelCard) -> str:
    """Return the card of a checkpoint as text."""
    return (
        f"{card.name}: {card.purpose or 'no purpose given'}\n"
        f"  documents: {DOCUMENT_FORMATS[card.document_format]}\n"
        f"  example document: {json.dumps(card.example_document, ensure_ascii=False)}\n"
        f"  example query: {card.example_query}\n"
        f"  example answer: {card.example_answer}"
    )


@contextmanager
def exit_on_service_errors() -> Iterator[None]:
    """Turn the errors of a service that cannot start or go on into exit statuses."""
    try:
        yield
    except ValidationError as error:
        fail(describe_invalid_setting(error), EXIT_REFUSED)
    except (StartError, StoreUnavailableError, DeviceLostError) as error:
        fail(error, EXIT_FAILED)
    except (GradMemError, ValueError) as error:
        fail(error, EXIT_REFUSED)


def describe_invalid_setting(error: ValidationError) -> str:
    """Return the first setting that is invalid and the reason, without its value."""
    first = error.errors(include_input=False)[0]
    return f"setting {'.'.join(map(str, first['loc']))}: {first['msg']}"


def fail(error: Exception | str, status: int) -> NoReturn:
    """Print an error as one line and exit."""
    print_error(error)
    raise typer.Exit(status)


def print_error(error: Exception | str) -> None:
    """Print an error as one line."""
    typer.echo(f"error: {' '.join(str(error).split())}", err=True)
