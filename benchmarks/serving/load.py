"""Closed-loop load: workers who each send the next request when the last one is answered."""

import asyncio
import itertools
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from benchmarks.serving.results import Load, Via
from gradmem_core.errors import GradMemError
from service.client import ClientError

Request = Callable[[], Awaitable[object]]
FAILURES = (GradMemError, ClientError)


@dataclass(frozen=True)
class Timed:
    """An answered request, in seconds of `time.perf_counter`."""

    started: float
    ended: float

    def share(self, begin: float, end: float) -> float:
        """The part of its time that lies between two moments, 0 to 1."""
        inside = min(self.ended, end) - max(self.started, begin)
        return max(inside, 0.0) / max(self.ended - self.started, 1e-9)


@dataclass
class Sent:
    """What became of a load's requests."""

    answered: list[Timed] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)

    def within(self, begin: float, end: float, *, via: Via, concurrency: int) -> Load:
        """The figures of a window.

        Batches answer many requests at one moment. Counting what ends inside would move with
        the window's ends by a batch; counting each request by its share inside does not.

        Raises:
            GradMemError, ClientError: No request was answered; the last one's error.
        """
        inside = [one for one in self.answered if one.share(begin, end) > 0]
        if not inside:
            raise self.failures[-1]
        latencies = [one.ended - one.started for one in inside]
        return Load(
            via=via,
            concurrency=concurrency,
            seconds=end - begin,
            throughput=sum(one.share(begin, end) for one in inside) / (end - begin),
            p50=percentile(latencies, 50),
            p99=percentile(latencies, 99),
            answered=len(self.answered),
            failures=dict(Counter(type(error).__name__ for error in self.failures)),
        )


@asynccontextmanager
async def under_load(requests: Sequence[Request], *, concurrency: int) -> AsyncIterator[Sent]:
    """Keep workers busy with requests, taken in turn, while the body runs.

    At its end each worker waits for its last answer.
    """
    sent, stopping = Sent(), asyncio.Event()
    turns = itertools.cycle(requests)
    workers = [asyncio.create_task(_work(turns, sent, stopping)) for _ in range(concurrency)]
    try:
        yield sent
    finally:
        stopping.set()
        await asyncio.gather(*workers)


async def _work(turns: "itertools.cycle[Request]", sent: Sent, stopping: asyncio.Event) -> None:
    while not stopping.is_set():
        started = time.perf_counter()
        try:
            await next(turns)()
        except FAILURES as error:
            sent.failures.append(error)
            await asyncio.sleep(0)  # an error at once must not keep the loop to itself
        else:
            sent.answered.append(Timed(started, time.perf_counter()))


async def load(requests: Sequence[Request], *, via: Via, concurrency: int, seconds: float) -> Load:
    """Measure a load for `seconds`, after a fifth as long to warm up.

    Raises:
        GradMemError, ClientError: No request was answered.
    """
    async with under_load(requests, concurrency=concurrency) as sent:
        await asyncio.sleep(seconds / 5)
        begin = time.perf_counter()
        await asyncio.sleep(seconds)
        end = time.perf_counter()
    return sent.within(begin, end, via=via, concurrency=concurrency)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of the values do not exceed (nearest rank).

    Args:
        values: At least one.
        percent: Above 0, at most 100.
    """
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]
