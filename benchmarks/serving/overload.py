"""More WRITE requests than the service can do: what becomes of them, and what still gets done."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np

from benchmarks.rows import Overload
from benchmarks.serving.documents import draw_documents
from benchmarks.serving.load import Request, Span, measure_load, percentiles
from benchmarks.serving.targets import Target
from benchmarks.serving.throughput import BATCH, DIFFERENT, PAIRS, STEPS
from service.client import ClientError, ConnectionFailed, Overloaded

FACTOR = 4
"Requests sent, in multiples of the capacity."
Outcome = Literal["succeeded", "refused", "failed", "unanswered"]


async def measure_overload(
    target: Target, *, seconds: float, overload_seconds: float, seed: int
) -> Overload:
    """Measure the capacity, send `FACTOR` times as much, and measure the capacity again.

    Args:
        target: Through HTTP.
        seconds: Length of each measurement of the capacity.
        overload_seconds: Time in which requests are sent.
        seed: Seed of the documents and of the times at which they are sent.

    Raises:
        ClientError: No request was answered while the capacity was measured.
    """
    requests = target.writes(draw_documents(DIFFERENT, pairs=PAIRS, seed=seed), steps=STEPS)
    measure_capacity = partial(measure_load, requests, concurrency=BATCH, seconds=seconds)
    before = await measure_capacity()
    begin = time.perf_counter()
    outcomes, length = await send_at_random(
        requests, rate=FACTOR * before.throughput, seconds=overload_seconds, seed=seed
    )
    after = await measure_capacity()
    counts = Counter(outcome for outcome, _ in outcomes)
    succeeded = [span for outcome, span in outcomes if outcome == "succeeded"]
    latencies = [ended - started for started, ended in succeeded]
    p50, p99 = percentiles(latencies) if latencies else (None, None)
    return Overload(
        pairs=PAIRS,
        steps=STEPS,
        before=before.throughput,
        after=after.throughput,
        concurrency=BATCH,
        offered=len(outcomes) / length,
        seconds=length,
        sent=len(outcomes),
        succeeded=counts["succeeded"],
        refused=counts["refused"],
        failed=counts["failed"],
        unanswered=counts["unanswered"],
        goodput=sum(ended <= begin + length for _, ended in succeeded) / length,
        p50=p50,
        p99=p99,
    )


async def send_at_random(
    requests: Sequence[Request], *, rate: float, seconds: float, seed: int
) -> tuple[list[tuple[Outcome, Span]], float]:
    """Send requests at random moments (a Poisson process), and wait until each has its outcome.

    Args:
        requests: Taken in turn.
        rate: Mean number of requests a second.
        seconds: Time in which requests are sent.
        seed: Seed of the moments.

    Returns:
        The outcomes, and the seconds in which requests were really sent.
    """
    draws = np.random.default_rng(seed)
    under_way: list[asyncio.Task[tuple[Outcome, Span]]] = []
    begin = time.perf_counter()
    due = draws.exponential(1 / rate)
    while due < seconds:
        await asyncio.sleep(max(0.0, begin + due - time.perf_counter()))
        request = requests[len(under_way) % len(requests)]
        under_way.append(asyncio.create_task(_send(request)))
        due += draws.exponential(1 / rate)
    length = time.perf_counter() - begin
    return await asyncio.gather(*under_way), length


async def _send(request: Request) -> tuple[Outcome, Span]:
    started = time.perf_counter()
    outcome: Outcome = "succeeded"
    try:
        await request()
    except Overloaded:
        outcome = "refused"
    except ConnectionFailed:
        outcome = "unanswered"
    except ClientError:
        outcome = "failed"
    return outcome, (started, time.perf_counter())
