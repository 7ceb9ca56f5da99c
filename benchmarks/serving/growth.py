"""The resident memory of the service's process over many requests."""

import asyncio
from collections.abc import Callable

from benchmarks.rows import Footprint
from benchmarks.serving.documents import draw_documents
from benchmarks.serving.targets import TTL_SECONDS
from service.client import AsyncClient, ClientError
from training.tasks.base import Example

PAIRS = 2
READS = 8
"READs of each memory."
CYCLE = READS + 2
"Requests of one memory's life: WRITE, READs, DELETE."
WORKERS = 32
FOOTPRINTS = 100
"Number of footprints."


async def measure_growth(
    url: str, resident_bytes: Callable[[], int | None], *, requests: int, seed: int
) -> list[Footprint]:
    """Send requests, and look at the memory of the service's process meanwhile.

    Args:
        url: Base URL of the service.
        resident_bytes: Reads the memory of its process; None where that cannot be known.
        requests: Number of requests.
        seed: Seed of the documents.

    Returns:
        Footprints; none where the memory cannot be known.
    """
    if resident_bytes() is None:
        return []
    documents = draw_documents(WORKERS, pairs=PAIRS, seed=seed)
    every = max(requests // FOOTPRINTS, 1)
    sent = failed = 0
    seen: list[tuple[int, int]] = []

    async def work(document: Example) -> None:
        nonlocal sent, failed
        while sent < requests:
            try:
                await _live(client, document)
            except ClientError:
                failed += 1
            sent += CYCLE
            held = resident_bytes()
            if held and sent >= every * (len(seen) + 1):
                seen.append((sent, held))

    async with AsyncClient(url, max_retries=0) as client:
        await asyncio.gather(*(work(document) for document in documents))
    return [Footprint(requests=count, failed=failed, bytes=held) for count, held in seen]


async def _live(client: AsyncClient, document: Example) -> None:
    """Write a memory, read it and delete it."""
    memory = await client.write(document.context, steps=1, ttl_seconds=TTL_SECONDS)
    for turn in range(READS):
        await memory.ask(document.questions[turn % PAIRS].query)
    await memory.delete()
