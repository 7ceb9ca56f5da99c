"""Measure what the service loses by a fault."""

import asyncio
import os
import random
import signal
from collections.abc import Sequence

from benchmarks.faults.faults import FAULTS
from benchmarks.faults.ledger import Ledger, audit, await_ready, writing
from benchmarks.faults.redis_server import RedisServer
from benchmarks.reliability_rows import Fault
from benchmarks.serving.process import RunningService, run_service
from service.settings import Settings

AROUND_SECONDS = 0.5
"Time of undisturbed writing before and after a fault."
LATEST_KILL_SECONDS = 1.0
"Latest moment of a kill after the load began."


async def measure_redis_fault(
    url: str,
    server: RedisServer,
    name: str,
    documents: Sequence[str],
    *,
    seconds: float,
    workers: int,
) -> Fault:
    """Measure a fault of Redis while the service is written to.

    Args:
        url: Base URL of the service, whose store the server is.
        server: The server.
        name: Name of the fault.
        documents: Documents to write.
        seconds: Length of the fault.
        workers: Writers at a time.
    """
    ledger = Ledger()
    async with writing(url, ledger, documents, workers=workers):
        await asyncio.sleep(AROUND_SECONDS)
        await FAULTS[name](server, seconds)
        ready = await await_ready(url)
        await asyncio.sleep(AROUND_SECONDS)
    return await describe(url, ledger, name=name, store="Redis", times=1, ready=ready)


def measure_kills(
    settings: Settings, documents: Sequence[str], *, store: str, times: int, workers: int, seed: int
) -> Fault:
    """Measure `kill -9` of the service at random moments while it is written to.

    Args:
        settings: The service's.
        documents: Documents to write.
        store: Name of the store.
        times: Number of kills.
        workers: Writers at a time.
        seed: Seed of the moments.
    """
    ledger, moments = Ledger(), random.Random(seed)  # noqa: S311
    for _ in range(times):
        with run_service(settings) as service:
            moment = moments.uniform(0, LATEST_KILL_SECONDS)
            ledger.take(asyncio.run(_kill(service, documents, moment, workers)))
    with run_service(settings) as service:
        row = describe(
            service.url, ledger, name="service killed", store=store, times=times, ready=None
        )
        return asyncio.run(row)


async def _kill(
    service: RunningService, documents: Sequence[str], moment: float, workers: int
) -> Ledger:
    assert service.pid is not None
    ledger = Ledger()
    async with writing(service.url, ledger, documents, workers=workers):
        while not ledger.acknowledged:
            await asyncio.sleep(0.01)
        await asyncio.sleep(moment)
        os.kill(service.pid, signal.SIGKILL)
    return ledger


async def describe(
    url: str, ledger: Ledger, *, name: str, store: str, times: int, ready: float | None
) -> Fault:
    """Hold the service against the ledger, and return the row of a fault."""
    found = await audit(url, ledger)
    return Fault(
        fault=name,
        store=store,
        times=times,
        acknowledged=ledger.acknowledged,
        deleted=len(ledger.deleted),
        refused=ledger.refused,
        cut=ledger.cut,
        unanswered=ledger.unanswered,
        lost=found.lost,
        wrong=found.wrong,
        undeleted=found.undeleted,
        ready=ready,
    )
