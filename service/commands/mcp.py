"""`gradmem mcp`."""

import os
from typing import Annotated, Any, Literal

import typer

from gradmem_core.extras import requires_extra
from service.client import DEFAULT_URL, AccessDenied, Client, ClientError
from service.commands.options import Url
from service.commands.terminal import EXIT_FAILED, exit_on_service_errors, fail
from service.settings import Settings, StartError, refuse_unknown_names


def serve_mcp(
    transport: Annotated[
        Literal["stdio", "http"],
        typer.Option(
            help="stdio: the agent's program starts this command. http: agents connect to /mcp."
        ),
    ] = "stdio",
    host: Annotated[str, typer.Option(help="Address to listen on, over http.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on, over http; 0 picks a free one.")
    ] = 8081,
    insecure: Annotated[
        bool | None,
        typer.Option(
            "--insecure", help="Listen for others even where the service asks for no key."
        ),
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Serve write_memory, ask_memory, list_memories and delete_memory to agents (MCP).

    Over stdio the key is that of GRADMEM_KEY. Over http every request brings its own, as
    `Authorization: Bearer KEY`. On other than loopback addresses, GRADMEM_ALLOWED_HOSTS has to name
    the hosts to answer for. docs/MCP.md has configurations to paste.
    """
    options: dict[str, Any] = {"host": host, "port": port, "insecure": insecure}
    given = {name: value for name, value in options.items() if value is not None}
    with exit_on_service_errors():
        refuse_unknown_names(os.environ)
        _run_server(transport, Settings(**given), url)


def _run_server(transport: Literal["stdio", "http"], settings: Settings, url: str) -> None:
    with requires_extra("mcp"):
        from service.log import configure_logging
        from service.mcp.server import create_server, serve_http

    configure_logging(settings.log_level, settings.log_format)
    server = create_server(url)
    if transport == "stdio":
        server.run()
        return
    _check_exposure(settings, url)
    serve_http(server, settings)


def _check_exposure(settings: Settings, url: str) -> None:
    """Refuse an address by which others would reach the memories of a service that trusts anyone.

    Raises:
        StartError: Others reach the address, and hosts or keys are missing.
        ValueError: A host is a pattern.
    """
    if any(name.startswith("*.") for name in settings.allowed_hosts):
        raise ValueError("GRADMEM_ALLOWED_HOSTS: gradmem mcp takes whole names alone, no *.NAME")
    if not settings.hosts_to_answer_for and "*" not in settings.allowed_hosts:
        raise StartError(
            f"{settings.host} can be reached by others: name the hosts to answer for in"
            " GRADMEM_ALLOWED_HOSTS, or * for any"
        )
    if not settings.may_be_open and _answers_anyone(url):
        raise StartError(
            f"{settings.host} can be reached by others, and the service asks for no key: make one"
            " with `gradmem keys create`, or let anyone in with --insecure (GRADMEM_INSECURE=true)"
        )


def _answers_anyone(url: str) -> bool:
    """Return true if the service needs no key."""
    try:
        with Client(url, key="") as client:
            client.models()
    except AccessDenied:
        return False
    except ClientError as error:
        fail(error, EXIT_FAILED)
    return True
