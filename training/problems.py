"""How what went wrong is said."""

from typing import Any, NoReturn

import typer

from gradmem_core.errors import GradMemError


def problem_of(entry: Any) -> str:  # noqa: ANN401 (pydantic's ErrorDetails is not public)
    """One entry of a validation error: the field, and what is wrong with it."""
    place = ".".join(str(part) for part in entry["loc"])
    return f"{place}: {entry['msg']}" if place else str(entry["msg"])


def fail(error: GradMemError) -> NoReturn:
    """End a command with its error on one line and status 2."""
    typer.echo(f"error: {error}", err=True)
    raise typer.Exit(2) from error
