"""Check that every model, the device and the store work."""

import asyncio

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import OverloadedError
from gradmem_core.reading.sampling import Sampling
from gradmem_core.texts.documents import prepare_document, prepare_query
from service.engine import Engine
from service.models import Models
from service.stores import Store


async def check_readiness(
    models: Models, engine: Engine, store: Store, *, timeout_seconds: float
) -> None:
    """Write and read a tiny memory of every model on the device, and ask the store.

    Raises:
        OverloadedError: Device or store did not answer in time.
        GradMemError: One of them does not work.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            await asyncio.gather(store.ping(), *(_check_model(engine, m) for m in models.all()))
    except TimeoutError as error:
        raise OverloadedError(
            f"no answer from device and store within {timeout_seconds:g} s"
        ) from error


async def _check_model(engine: Engine, checkpoint: Checkpoint) -> None:
    page = prepare_document(checkpoint, checkpoint.task.example_document, max_pages=1).pages[0]
    (written,) = await engine.write_pages(checkpoint, [page.ids], 1)
    query = prepare_query(checkpoint, checkpoint.task.example_query)
    sampling = Sampling(max_new_tokens=1)
    await engine.read_pages(checkpoint, written.memory[None], None, [query], [sampling])
