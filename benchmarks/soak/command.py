"""`gradmem-bench soak`: serve mixed traffic for a long time, and watch for what grows."""

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import redis
import typer

from benchmarks.command import Measurement
from benchmarks.faults.redis_server import RedisServer
from benchmarks.options import CheckpointOption, Seed, one_of, separated
from benchmarks.reliability_rows import Soak
from benchmarks.results import subject_of
from benchmarks.serving.documents import draw_documents
from benchmarks.serving.process import run_service
from benchmarks.soak.measurement import measure_part
from benchmarks.soak.traffic import Traffic
from gradmem_core.checkpoints.checkpoint import load_checkpoint
from service.settings import Settings

STORES = ("sqlite", "redis")
DIFFERENT = 64
"Different documents that are written in turn."
PARTS = 10
DATABASE = "service.db"


def measure_soak(
    checkpoint: CheckpointOption = "kv-16",
    only: Annotated[
        Sequence[str],
        separated(parse=one_of(STORES), metavar="STORES", help="Stores, one after the other."),
    ] = STORES,
    seconds: Annotated[
        float, typer.Option(min=1, help="Length of the traffic in seconds, for each store.")
    ] = 3600,
    rate: Annotated[float, typer.Option(min=0.1, help="Requests per second.")] = 10,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs in a document.")] = 4,
    seed: Seed = 1,
) -> Measurement:
    """Serve mixed traffic at a steady rate for a long time, and show each tenth of it.

    Memories are written, read, listed and deleted, and half of them expire, so that their number
    soon stays the same. What grows from tenth to tenth leaks: resident memory, open files, threads,
    the store; latencies tell what slows down.
    """
    subject = subject_of(load_checkpoint(checkpoint))
    documents = draw_documents(DIFFERENT, pairs=pairs, seed=seed)

    def rows() -> Iterator[Soak]:
        for store in only:
            typer.echo(store, err=True)
            with (
                _run_store(store) as (url, size),
                run_service(Settings(checkpoints=[checkpoint], store_url=url)) as service,
            ):
                traffic = Traffic(service.url, documents, rate=rate, seed=seed)
                for part in range(1, PARTS + 1):
                    measuring = measure_part(
                        traffic, service, size, store=store, part=part, seconds=seconds / PARTS
                    )
                    yield asyncio.run(measuring)

    return Measurement(topic="serving", rows=rows(), subject=subject)


@contextmanager
def _run_store(name: str) -> Iterator[tuple[str, Callable[[], int]]]:
    """Yield the URL of an empty store, and a function that reads its size in bytes."""
    with tempfile.TemporaryDirectory(prefix="gradmem-bench-") as folder:
        if name == "sqlite":
            yield f"sqlite:///{folder}/{DATABASE}", lambda: size_of_files(Path(folder))
            return
        with RedisServer(Path(folder)) as server, redis.Redis.from_url(server.url) as client:
            yield server.url, lambda: int(client.info("memory")["used_memory"])


def size_of_files(folder: Path) -> int:
    """Return the size of the files of a SQLite store, the write-ahead log included."""
    return sum(file.stat().st_size for file in folder.glob(f"{DATABASE}*"))
