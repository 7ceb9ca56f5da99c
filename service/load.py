"""Closed-loop load: workers who each send the next request when the last one is answered."""

import asyncio
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from gradmem_core.errors import GradMemError
from service.client import ClientError

Request = Callable[[], Awaitable[object]]
Span = tuple[float, float]
"Start and end of an answered request, in seconds of `time.perf_counter`."
FAILURES = (GradMemError, ClientError)


@dataclass(frozen=True)
class LoadFigures:
    """The figures of a window; times are in seconds, the throughput in requests per second."""

    seconds: float
    throughput: float
    p50: float
    p99: float
    answered: int
    failed: int


async def measure_load(
    requests: Sequence[Request], *, concurrency: int, seconds: float
) -> LoadFigures:
    """Keep workers busy for `seconds`, after a fifth as long to warm up.

    Args:
        requests: Taken in turn.
        concurrency: Number of workers.
        seconds: Length of the measured window.

    Raises:
        GradMemError, ClientError: No request was answered; the last one's error.
    """
    answered: list[Span] = []
    failures: list[Exception] = []
    turns = itertools.cycle(requests)
    begin = time.perf_counter() + seconds / 5
    end = begin + seconds

    async def work() -> None:
        while time.perf_counter() < end:
            started = time.perf_counter()
            try:
                await next(turns)()
            except FAILURES as error:
                failures.append(error)
                await asyncio.sleep(0)  # an error at once must not keep the loop to itself
            else:
                answered.append((started, time.perf_counter()))

    await asyncio.gather(*(work() for _ in range(concurrency)))
    return summarize(answered, failures, begin=begin, end=end)


def summarize(
    answered: Sequence[Span], failures: Sequence[Exception] = (), *, begin: float, end: float
) -> LoadFigures:
    """Compute the figures of a window.

    Batches answer many requests at one moment. Counting the requests that end inside would move
    with the window's ends by a batch; counting each request by its share inside does not.

    Raises:
        Exception: No request was answered inside; the last one of the failures.
    """
    inside = [
        (ended - started, min(ended, end) - max(started, begin))
        for started, ended in answered
        if started < end and ended > begin
    ]
    if not inside:
        raise failures[-1]
    p50, p99 = percentiles([latency for latency, _ in inside])
    return LoadFigures(
        seconds=end - begin,
        throughput=sum(share / latency for latency, share in inside) / (end - begin),
        p50=p50,
        p99=p99,
        answered=len(answered),
        failed=len(failures),
    )


def percentiles(latencies: Sequence[float]) -> tuple[float, float]:
    """Return the latencies that 50 and 99 in 100 requests keep within (nearest rank)."""
    ordered = sorted(latencies)
    p50, p99 = (ordered[math.ceil(share * len(ordered)) - 1] for share in (0.5, 0.99))
    return p50, p99
