"""More WRITE requests than the service can do: what becomes of them, and of another client's."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Literal

from benchmarks.rows import BesideOverload, Overload
from benchmarks.serving.arrivals import random_times
from benchmarks.serving.documents import draw_documents
from benchmarks.serving.targets import Target
from benchmarks.serving.throughput import BATCH, DIFFERENT, PAIRS, STEPS
from service.client import ClientError, ConnectionFailed, Overloaded
from service.engine import Operation
from service.load import Request, Span, measure_load, percentiles

FACTOR = 4
"Requests sent, in multiples of the capacity."
ALONE = 5
"Requests of the other client before the overload."
PAUSE_SECONDS = 0.5
"Time between an answer to the other client and its next request."
Outcome = Literal["succeeded", "refused", "failed", "unanswered"]
Sent = tuple[Outcome, Span]
"Outcome of a request, and its start and end."


async def measure_overload(
    target: Target,
    other: Target,
    *,
    run: int,
    service_cores: int | None,
    seconds: float,
    overload_seconds: float,
    seed: int,
) -> list[Overload | BesideOverload]:
    """Measure the capacity, send `FACTOR` times as much, and measure the capacity again.

    Args:
        target: Through HTTP.
        other: The same service for another client, which sends one request at a time.
        run: Number of the run.
        service_cores: Cores that the service has to itself, where that is known.
        seconds: Length of each measurement of the capacity.
        overload_seconds: Time in which requests are sent.
        seed: Seed of the documents and of the times at which they are sent.

    Raises:
        ClientError: No request was answered while the capacity was measured.
    """
    documents = draw_documents(DIFFERENT, pairs=PAIRS, seed=seed)
    requests = target.writes(documents, steps=STEPS)
    streams: dict[Operation, list[Request]] = {
        "write": other.writes(documents, steps=STEPS),
        "read": await other.reads(documents),
    }
    alone = {kind: await _time_alone(stream) for kind, stream in streams.items()}
    measure_capacity = partial(measure_load, requests, concurrency=BATCH, seconds=seconds)
    before = await measure_capacity()
    begin = time.perf_counter()
    beside = [
        asyncio.create_task(_send_in_turn(stream, seconds=overload_seconds))
        for stream in streams.values()
    ]
    outcomes, length = await send_at_random(
        requests, rate=FACTOR * before.throughput, seconds=overload_seconds, seed=seed
    )
    others = dict(zip(streams, await asyncio.gather(*beside), strict=True))
    after = await measure_capacity()
    counts = Counter(outcome for outcome, _ in outcomes)
    p50, p99 = _latencies(outcomes)
    flood = Overload(
        run=run,
        pairs=PAIRS,
        steps=STEPS,
        service_cores=service_cores,
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
        goodput=_count_written([*outcomes, *others["write"]], until=begin + length) / length,
        p50=p50,
        p99=p99,
    )
    return [flood, *(_describe(run, kind, alone[kind], sent) for kind, sent in others.items())]


def _count_written(outcomes: Sequence[Sent], *, until: float) -> int:
    return sum(outcome == "succeeded" and ended <= until for outcome, (_, ended) in outcomes)


def _describe(
    run: int, operation: Operation, alone: float, outcomes: Sequence[Sent]
) -> BesideOverload:
    counts = Counter(outcome for outcome, _ in outcomes)
    p50, p99 = _latencies(outcomes)
    return BesideOverload(
        run=run,
        operation=operation,
        alone=alone,
        sent=len(outcomes),
        succeeded=counts["succeeded"],
        refused=counts["refused"],
        failed=counts["failed"] + counts["unanswered"],
        p50=p50,
        p99=p99,
    )


def _latencies(outcomes: Sequence[Sent]) -> tuple[float, float] | tuple[None, None]:
    """Return the latencies that 50 and 99 in 100 successes keep within."""
    latencies = [ended - began for outcome, (began, ended) in outcomes if outcome == "succeeded"]
    return percentiles(latencies) if latencies else (None, None)


async def _time_alone(requests: Sequence[Request]) -> float:
    """Return the median latency of a few requests, one at a time."""
    sent = [await _send(request) for request in requests[:ALONE]]
    return percentiles([ended - began for _, (began, ended) in sent])[0]


async def _send_in_turn(requests: Sequence[Request], *, seconds: float) -> list[Sent]:
    """Send one request at a time, with pauses; each has its outcome."""
    end = time.perf_counter() + seconds
    turns = itertools.cycle(requests)
    sent: list[Sent] = []
    while time.perf_counter() < end:
        sent.append(await _send(next(turns)))
        await asyncio.sleep(PAUSE_SECONDS)
    return sent


async def send_at_random(
    requests: Sequence[Request], *, rate: float, seconds: float, seed: int
) -> tuple[list[Sent], float]:
    """Send requests at random moments (a Poisson process), and wait until each has its outcome.

    Args:
        requests: Taken in turn.
        rate: Mean number of requests a second.
        seconds: Time in which requests are sent.
        seed: Seed of the moments.

    Returns:
        The outcomes, and the seconds in which requests were really sent.
    """
    under_way: list[asyncio.Task[Sent]] = []
    begin = time.perf_counter()
    for due in random_times(rate, seconds, seed):
        await asyncio.sleep(max(0.0, begin + due - time.perf_counter()))
        request = requests[len(under_way) % len(requests)]
        under_way.append(asyncio.create_task(_send(request)))
    length = time.perf_counter() - begin
    return await asyncio.gather(*under_way), length


async def _send(request: Request) -> Sent:
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
