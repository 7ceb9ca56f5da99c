"""`gradmem plan`."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from gradmem_core.config import BlobDtype
from gradmem_core.errors import GradMemError
from gradmem_core.extras import requires_extra
from service.commands.options import AsJson
from service.commands.terminal import EXIT_REFUSED, fail

GIB = 2.0**30
GIGA = 1e9


def plan(
    documents_per_second: Annotated[float, typer.Option(min=0, help="WRITEs per second.")],
    reads_per_second: Annotated[float, typer.Option(min=0, help="READs per second.")],
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of a document.")],
    queries: Annotated[int, typer.Option(min=1, help="Queries of a READ.")] = 1,
    model: Annotated[str, typer.Option(help="Checkpoint, a folder or a bundled name.")] = "prose",
    device: Annotated[
        str, typer.Option(help="Kind of device: cpu (a core), h200, or one of --constants.")
    ] = "cpu",
    memories: Annotated[
        int, typer.Option(min=1, help="Memories that are kept at a time.")
    ] = 1_000_000,
    tenants: Annotated[int, typer.Option(min=1, help="Tenants, of equal size.")] = 1,
    query_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a query.")] = 16,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 8,
    dtype: Annotated[BlobDtype, typer.Option(help="Type of the stored elements.")] = "int8",
    verify: Annotated[
        bool, typer.Option(help="Pages are read back, and weak ones written again.")
    ] = True,
    write_p99: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Time that 99 in 100 WRITEs may take; by default three times one alone.",
        ),
    ] = None,
    read_p99: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="The same for READs.")
    ] = None,
    utilisation: Annotated[
        float, typer.Option(help="Part of devices and Redis to plan for; the rest is headroom.")
    ] = 0.7,
    batch_tokens: Annotated[
        int, typer.Option(min=1, help="GRADMEM_MAX_BATCH_TOKENS of the services.")
    ] = 2048,
    redis_memory: Annotated[
        float, typer.Option(metavar="GIB", help="Memory of a Redis primary.")
    ] = 64,
    network: Annotated[
        float, typer.Option(metavar="GBIT", help="Network of a Redis primary, Gbit/s.")
    ] = 10,
    price: Annotated[
        float | None, typer.Option(help="Price of a device per hour, in any currency.")
    ] = None,
    constants: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Constants of other devices, as `gradmem-bench constants` prints them.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compute the devices, the Redis memory, the network and the cost of a load.

    Needs no service. docs/SCALING.md describes the method, and how far off it was.
    """
    with requires_extra("service"):
        from service.capacity.arithmetic import ModelShape
        from service.capacity.constants import load_constants, packaged_constants
        from service.capacity.description import describe
        from service.capacity.plan import Workload, make_plan

    try:
        load = Workload(
            documents_per_second=documents_per_second,
            reads_per_second=reads_per_second,
            tokens=tokens,
            queries=queries,
            query_tokens=query_tokens,
            answer_tokens=answer_tokens,
            memories=memories,
            tenants=tenants,
            dtype=dtype,
            verify=verify,
            write_p99=write_p99,
            read_p99=read_p99,
            utilisation=utilisation,
            batch_tokens=batch_tokens,
            redis_bytes=redis_memory * GIB,
            network_bits=network * GIGA,
            price=price,
        )
        known = packaged_constants() if constants is None else load_constants(constants)
        made = make_plan(load, ModelShape.load(model), known, device)
    except ValidationError as error:
        problem = error.errors()[0]
        fail(f"{problem['loc'][0]}: {problem['msg']}", EXIT_REFUSED)
    except GradMemError as error:
        fail(error, EXIT_REFUSED)
    typer.echo(made.model_dump_json(indent=2) if as_json else describe(made))
