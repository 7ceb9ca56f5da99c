"""More WRITE requests than the service can do: what becomes of each, and what still gets done."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from benchmarks.serving.documents import documents
from benchmarks.serving.load import Request, Timed, load, percentile
from benchmarks.serving.loaded import BATCH, DIFFERENT, PAIRS, STEPS
from benchmarks.serving.plan import Plan
from benchmarks.serving.results import OverloadSection
from benchmarks.serving.targets import Target
from service.client import ClientError, ConnectionFailed, Overloaded

FACTOR = 4
"Requests that come, in multiples of the capacity."


@dataclass
class Outcomes:
    """What became of each request."""

    seconds: float = 0.0
    "How long requests were sent."
    succeeded: list[Timed] = field(default_factory=list)
    refused: int = 0
    failed: int = 0
    unanswered: int = 0

    @property
    def sent(self) -> int:
        """How many there were."""
        return len(self.succeeded) + self.refused + self.failed + self.unanswered

    async def add(self, request: Request) -> None:
        """Send a request and keep what becomes of it."""
        started = time.perf_counter()
        try:
            await request()
        except Overloaded:
            self.refused += 1
        except ConnectionFailed:
            self.unanswered += 1
        except ClientError:
            self.failed += 1
        else:
            self.succeeded.append(Timed(started, time.perf_counter()))


async def overload(target: Target, plan: Plan) -> OverloadSection:
    """Measure the capacity, send `FACTOR` times as much, and measure the capacity again.

    Args:
        target: Reached through HTTP.
        plan: How long.

    Raises:
        ClientError: No request was answered while the capacity was measured.
    """
    requests = target.writes(documents(DIFFERENT, pairs=PAIRS, seed=plan.seed), steps=STEPS)
    closed_loop = partial(load, requests, via=target.via, concurrency=BATCH, seconds=plan.seconds)
    before = await closed_loop()
    begin = time.perf_counter()
    outcomes = await offered(
        requests,
        rate=FACTOR * before.throughput,
        seconds=plan.overload_seconds,
        seed=plan.seed,
    )
    after = await closed_loop()
    in_time = [one for one in outcomes.succeeded if one.ended <= begin + outcomes.seconds]
    latencies = [one.ended - one.started for one in outcomes.succeeded]
    return OverloadSection(
        pairs=PAIRS,
        steps=STEPS,
        before=before,
        after=after,
        offered=outcomes.sent / outcomes.seconds,
        seconds=outcomes.seconds,
        sent=outcomes.sent,
        succeeded=len(outcomes.succeeded),
        refused=outcomes.refused,
        failed=outcomes.failed,
        unanswered=outcomes.unanswered,
        goodput=len(in_time) / outcomes.seconds,
        p50=percentile(latencies, 50) if latencies else None,
        p99=percentile(latencies, 99) if latencies else None,
    )


async def offered(
    requests: Sequence[Request], *, rate: float, seconds: float, seed: int
) -> Outcomes:
    """Send requests at random moments (a Poisson process), and wait until each has its outcome.

    Args:
        requests: Taken in turn.
        rate: How many a second in the mean.
        seconds: For how long.
        seed: Seed of the moments.
    """
    draws = np.random.default_rng(seed)
    outcomes = Outcomes()
    under_way: list[asyncio.Task[None]] = []
    begin = time.perf_counter()
    due = float(draws.exponential(1 / rate))
    while due < seconds:
        await asyncio.sleep(max(0.0, begin + due - time.perf_counter()))
        request = requests[len(under_way) % len(requests)]
        under_way.append(asyncio.create_task(outcomes.add(request)))
        due += float(draws.exponential(1 / rate))
    outcomes.seconds = time.perf_counter() - begin
    await asyncio.gather(*under_way)
    return outcomes
