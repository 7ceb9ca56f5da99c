"""Messages of errors."""

from typing import Any, NoReturn

import typer

from gradmem_core.errors import GradMemError


def describe_problem(entry: Any) -> str:  # noqa: ANN401 (pydantic's ErrorDetails is not public)
    """Return the message of an entry of a validation error, with its field."""
    place = ".".join(str(part) for part in entry["loc"])
    message = str(entry["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def fail(error: GradMemError) -> NoReturn:
    """Print an error on one line, and end the command with status 2."""
    typer.echo(f"error: {error}", err=True)
    raise typer.Exit(2) from error
