"""Options that several commands have, and the client that they use."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from service.client import (
    AccessDenied,
    Client,
    ClientError,
    Conflict,
    InvalidKey,
    InvalidRequest,
    NotFound,
)
from service.commands.terminal import EXIT_FAILED, EXIT_REFUSED, fail
from service.settings import UnknownSettingError, refuse_unknown_names

REFUSALS = (InvalidKey, AccessDenied, InvalidRequest, NotFound, Conflict, UnknownSettingError)
"Errors of commands that cannot be carried out."

Url = Annotated[
    str, typer.Option(envvar="GRADMEM_URL", metavar="URL", help="Base URL of the service.")
]
MemoryArgument = Annotated[str, typer.Argument(metavar="ID", help="The memory's id.")]
Name = Annotated[str | None, typer.Option(help="Name of the memory, for lists.")]
Metadata = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Entry to store with the memory; may be repeated."),
]
Ttl = Annotated[
    int | None,
    typer.Option(metavar="SECONDS", help="Time until the memory is deleted; never by default."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the whole result as a JSON object.")]


@contextmanager
def connect(url: str) -> Iterator[Client]:
    """Yield a client; turn its errors into exit statuses."""
    with exit_on_client_errors(), Client(url) as client:
        yield client


@contextmanager
def exit_on_client_errors() -> Iterator[None]:
    """Turn the errors of clients into exit statuses, and those of the environment."""
    try:
        refuse_unknown_names(os.environ)
        yield
    except REFUSALS as error:
        fail(error, EXIT_REFUSED)
    except ClientError as error:
        fail(error, EXIT_FAILED)
