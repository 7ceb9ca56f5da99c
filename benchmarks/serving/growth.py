"""Whether the service's process holds more memory the longer it serves."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from benchmarks.serving.documents import Document, documents
from benchmarks.serving.http import TTL_SECONDS, Clients
from benchmarks.serving.plan import Plan
from benchmarks.serving.results import Footprint, GrowthSection
from service.client import AsyncClient, ClientError

PAIRS = 2
READS = 8
"READs of each memory."
CYCLE = READS + 2
"Requests of one memory's life: WRITE, READs, DELETE."
WORKERS = 32
DIFFERENT = 64
FOOTPRINTS = 100
"How often memory is looked at."


@dataclass
class _Progress:
    requests: int = 0
    failed: int = 0


async def growth(
    url: str, resident_bytes: Callable[[], int | None], plan: Plan
) -> GrowthSection | None:
    """Send `plan.requests` requests and look at the process's memory on the way.

    Args:
        url: The service.
        resident_bytes: What its process holds now; None where that cannot be known.
        plan: How many.

    Returns:
        None where the memory cannot be known.
    """
    if resident_bytes() is None:
        return None
    written = documents(DIFFERENT, pairs=PAIRS, seed=plan.seed)
    every = max(plan.requests // FOOTPRINTS, 1)
    progress, footprints = _Progress(), list[Footprint]()
    async with aclosing(Clients(url)) as clients:

        async def worker(number: int) -> None:
            while progress.requests < plan.requests:
                async with clients.one() as client:
                    await _cycle(client, written[number % DIFFERENT], progress)
                held = resident_bytes()
                if held and progress.requests >= every * (len(footprints) + 1):
                    footprints.append(Footprint(requests=progress.requests, bytes=held))

        await asyncio.gather(*(worker(number) for number in range(WORKERS)))
    return GrowthSection(failed=progress.failed, footprints=tuple(footprints))


async def _cycle(client: AsyncClient, document: Document, progress: _Progress) -> None:
    """The life of one memory."""
    try:
        memory = await client.write(document.text, steps=1, ttl_seconds=TTL_SECONDS)
        for turn in range(READS):
            await client.read(memory.memory_id, document.queries[turn % PAIRS])
        await client.delete(memory.memory_id)
    except ClientError:
        progress.failed += 1
    progress.requests += CYCLE
