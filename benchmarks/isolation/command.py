"""`gradmem-bench isolation`: let tenants try to reach each other's memories and jobs."""

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.command import Measurement
from benchmarks.faults.redis_server import RedisServer
from benchmarks.isolation.requests import Texts
from benchmarks.isolation.walk import run_walk
from benchmarks.options import CheckpointOption, Seed, one_of, separated
from benchmarks.reliability_rows import Isolation
from benchmarks.results import subject_of
from benchmarks.serving.documents import draw_documents
from benchmarks.serving.process import run_service
from gradmem_core.checkpoints.checkpoint import load_checkpoint
from service.keys import KeyLimits, make_key
from service.settings import Settings
from service.stores import create_store

STORES = ("sqlite", "redis")


def measure_isolation(
    checkpoint: CheckpointOption = "kv-16",
    only: Annotated[
        Sequence[str], separated(parse=one_of(STORES), metavar="STORES", help="Stores to try.")
    ] = STORES,
    operations: Annotated[
        int, typer.Option(min=1, help="Random operations, for each store.")
    ] = 10_000,
    tenants: Annotated[int, typer.Option(min=2, help="Tenants, each with a key.")] = 4,
    seed: Seed = 1,
) -> Measurement:
    """Let tenants carry out random operations, and hold the answers against who owns what.

    They write, list, show, read, ask by chat, export, import, change and delete memories and jobs
    of their own, of each other, and deleted ones. A foreign id has to be answered to the byte as
    one that nobody has, a foreign blob is refused, and idempotency keys of two tenants never meet.
    """
    subject = subject_of(load_checkpoint(checkpoint))
    [example] = draw_documents(1, pairs=4, seed=seed)
    texts = Texts(example.context, example.questions[0].query)

    def rows() -> Iterator[Isolation]:
        for store in only:
            typer.echo(store, err=True)
            with (
                tempfile.TemporaryDirectory(prefix="gradmem-bench-") as folder,
                ExitStack() as stack,
            ):
                url = f"sqlite:///{folder}/service.db"
                if store == "redis":
                    url = stack.enter_context(RedisServer(Path(folder))).url
                keys = asyncio.run(store_keys(url, tenants))
                settings = Settings(checkpoints=[checkpoint], store_url=url)
                service = stack.enter_context(run_service(settings))
                found = run_walk(service.url, keys, texts, operations=operations, seed=seed)
            yield Isolation(
                store=store,
                tenants=tenants,
                operations=found.operations,
                foreign=found.foreign,
                leaked=found.leaked,
                lost=found.lost,
                revived=found.revived,
            )

    return Measurement(topic="serving", rows=rows(), subject=subject)


async def store_keys(url: str, tenants: int) -> dict[str, str]:
    """Make a key for each tenant; return the keys by the names of the tenants."""
    keys = {}
    async with create_store(url) as store:
        for number in range(1, tenants + 1):
            name = f"tenant-{number}"
            keys[name], record = make_key(name, "write", KeyLimits())
            await store.save_key(record.key_id, record.model_dump_json())
    return keys
