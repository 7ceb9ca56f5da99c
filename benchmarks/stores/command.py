"""`gradmem-bench stores`: time stores of different sizes."""

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.command import Measurement
from benchmarks.faults.redis_server import RedisServer
from benchmarks.options import Seed, one_of, positive, separated
from benchmarks.reliability_rows import StoreScale
from benchmarks.stores.measurement import measure_sizes
from service.stores import create_store

KINDS = ("sqlite", "redis")


def measure_stores(
    only: Annotated[
        Sequence[str], separated(parse=one_of(KINDS), metavar="STORES", help="Stores to measure.")
    ] = KINDS,
    sizes: Annotated[Sequence[int], separated(parse=positive, help="Numbers of memories.")] = (
        1_000,
        10_000,
        100_000,
        1_000_000,
    ),
    rounds: Annotated[
        int, typer.Option(min=1, help="Times that each operation is carried out.")
    ] = 500,
    seed: Seed = 1,
) -> Measurement:
    """Time the operations of stores that hold few and many small memories, in turn.

    A store of each size is filled first; then each operation is carried out in all of them before
    the next. A million memories take about 3 GB of memory in Redis, and on the disk in SQLite.
    """

    def rows() -> Iterator[StoreScale]:
        for kind in only:
            typer.echo(kind, err=True)
            with ExitStack() as stack:
                urls = [_start_store(kind, stack) for _ in sizes]
                yield from asyncio.run(_measure(urls, sizes, kind=kind, rounds=rounds, seed=seed))

    return Measurement(topic="serving", rows=rows())


async def _measure(
    urls: Sequence[str], sizes: Sequence[int], *, kind: str, rounds: int, seed: int
) -> list[StoreScale]:
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(create_store(url)) for url in urls]
        return await measure_sizes(stores, sizes, kind=kind, rounds=rounds, seed=seed)


def _start_store(kind: str, stack: ExitStack) -> str:
    """Return the URL of an empty store that lives as long as the stack."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gradmem-bench-")))
    if kind == "sqlite":
        return f"sqlite:///{folder}/memories.db"
    return stack.enter_context(RedisServer(folder)).url
