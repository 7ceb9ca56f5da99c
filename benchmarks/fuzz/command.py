"""`gradmem-bench fuzz`: send random requests, and hold the answers against the OpenAPI document."""

import asyncio
import tempfile
from collections.abc import Iterator
from typing import Annotated

import typer

from benchmarks.command import Measurement
from benchmarks.options import CheckpointOption, Seed
from benchmarks.reliability_rows import FuzzedRoute
from benchmarks.results import subject_of
from benchmarks.serving.documents import draw_documents
from benchmarks.serving.process import run_service
from gradmem_core.checkpoints.checkpoint import load_checkpoint
from gradmem_core.tenants import DEFAULT_TENANT
from service.keys import KeyLimits, make_key
from service.settings import Settings
from service.stores import create_store


def measure_fuzz(
    checkpoint: CheckpointOption = "kv-16",
    requests: Annotated[int, typer.Option(min=1, help="Number of requests, about.")] = 20_000,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs in a document.")] = 4,
    seed: Seed = 1,
) -> Measurement:
    """Send random requests with a key, and hold the answers against the OpenAPI document.

    Schemathesis draws requests that the document allows, and others. Each kind of failure is shown
    once for each route, with the request.
    """
    from benchmarks.fuzz.fuzzer import Fuzzer  # schemathesis takes seconds to load

    subject = subject_of(load_checkpoint(checkpoint))
    [example] = draw_documents(1, pairs=pairs, seed=seed)

    def rows() -> Iterator[FuzzedRoute]:
        with tempfile.TemporaryDirectory(prefix="gradmem-bench-") as folder:
            url = f"sqlite:///{folder}/service.db"
            key = asyncio.run(store_key(url))
            with run_service(Settings(checkpoints=[checkpoint], store_url=url)) as service:
                fuzzer = Fuzzer(
                    service.url,
                    key,
                    example.context,
                    example.questions[0].query,
                    seed=seed,
                    report=lambda text: typer.echo(text, err=True),
                )
                yield from fuzzer.run(requests)

    return Measurement(topic="serving", rows=rows(), subject=subject)


async def store_key(url: str) -> str:
    """Make a key that may do everything; return it."""
    key, record = make_key(DEFAULT_TENANT, "admin", KeyLimits())
    async with create_store(url) as store:
        await store.save_key(record.key_id, record.model_dump_json())
    return key
