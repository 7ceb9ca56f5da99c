"""`gradmem serve`."""

import os
from typing import Annotated, Any

import typer

from gradmem_core.extras import requires_extra
from service.commands.terminal import exit_on_service_errors
from service.settings import Settings, refuse_unknown_names

WAIT_POLICY = "PASSIVE"
"""OpenMP's threads sleep while they wait for each other. Where they spin instead, a gradient step
on cores that other programs use too takes many times as long (docs/LOG.md)."""


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[
        int | None,
        typer.Option(
            help="Port to listen on; 0 picks a free one, and prints the base URL once the service"
            " listens."
        ),
    ] = None,
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


def _run_service(options: dict[str, Any]) -> None:
    # Read when torch is loaded, which takes seconds that only serving needs.
    os.environ.setdefault("OMP_WAIT_POLICY", WAIT_POLICY)
    with requires_extra("service"):
        from service.server import serve as run_server

    refuse_unknown_names(os.environ)
    run_server(Settings(**options))
