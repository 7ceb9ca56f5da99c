"""Traffic of all kinds at a steady rate, over a number of memories that does not grow."""

import asyncio
import itertools
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from service.client import AsyncClient, ClientError
from training.tasks.base import Example

WORKERS = 4
"Requests at a time at most."
KEPT = 100
"Memories that stay; beyond these the oldest is deleted."
LIFETIME_SECONDS = 60
"Lifetime of every second memory."
LIST_PART = 20
"Memories of a list that are looked at."
REQUEST_SECONDS = 60.0
WEIGHTS = {"write": 4, "read": 8, "list": 3}
"Shares of the requests; the rest are the deletions that these bring about."


@dataclass
class Timings:
    """The latencies of the answered requests in seconds, by operation, and the failures."""

    latencies: dict[str, list[float]] = field(default_factory=dict)
    failed: int = 0

    def take(self, operation: str, seconds: float) -> None:
        """Add a request that was answered."""
        self.latencies.setdefault(operation, []).append(seconds)


class Traffic:
    """Requests in a random order; every second memory expires, the others are deleted in turn.

    Args:
        url: Base URL of the service.
        documents: Documents that are written in turn.
        rate: Requests per second.
        seed: Seed of the order.
    """

    def __init__(self, url: str, documents: Sequence[Example], *, rate: float, seed: int) -> None:
        self._url = url
        self._documents = itertools.cycle(documents)
        self._lasts = itertools.cycle((True, False))
        self._pause = WORKERS / rate
        self._random = random.Random(seed)  # noqa: S311
        self._lasting: deque[tuple[str, str]] = deque()
        "Ids of the memories that do not expire with a query, the oldest first."

    async def run(self, seconds: float) -> Timings:
        """Send requests for a time, and wait for the last answers."""
        timings = Timings()
        async with AsyncClient(self._url, timeout_seconds=REQUEST_SECONDS, max_retries=0) as client:
            end = time.monotonic() + seconds
            workers = (self._work(client, timings, end) for _ in range(WORKERS))
            await asyncio.gather(*workers)
        return timings

    async def _work(self, client: AsyncClient, timings: Timings, end: float) -> None:
        operations: dict[str, Callable[[AsyncClient], Awaitable[None]]] = {
            "write": self._write,
            "read": self._read,
            "list": self._list,
            "delete": self._delete,
        }
        await asyncio.sleep(self._random.uniform(0, self._pause))
        while (started := time.monotonic()) < end:
            name = self._choose()
            try:
                await operations[name](client)
            except ClientError:
                timings.failed += 1
            else:
                timings.take(name, time.monotonic() - started)
            await asyncio.sleep(max(0, started + self._pause - time.monotonic()))

    def _choose(self) -> str:
        if len(self._lasting) > KEPT:
            return "delete"
        if not self._lasting:
            return "write"
        return self._random.choices(tuple(WEIGHTS), tuple(WEIGHTS.values()))[0]

    async def _write(self, client: AsyncClient) -> None:
        document, lasts = next(self._documents), next(self._lasts)
        memory = await client.write(
            document.context,
            ttl_seconds=None if lasts else LIFETIME_SECONDS,
            metadata={"lasts": str(lasts)},
        )
        if lasts:
            self._lasting.append((memory.memory_id, document.questions[0].query))

    async def _read(self, client: AsyncClient) -> None:
        newer_half = len(self._lasting) // 2 + 1  # the oldest may be deleted meanwhile
        memory_id, query = self._lasting[-self._random.randint(1, newer_half)]
        await client.memory(memory_id).ask(query)

    async def _list(self, client: AsyncClient) -> None:
        count = 0
        async for _ in client.memories(metadata={"lasts": "True"}):
            count += 1
            if count == LIST_PART:
                return

    async def _delete(self, client: AsyncClient) -> None:
        memory_id, _ = self._lasting.popleft()
        await client.memory(memory_id).delete()
