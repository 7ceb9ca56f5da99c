"""Watch the service's process and its store while the service answers traffic."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from statistics import median
from typing import TypeAlias

from benchmarks.reliability_rows import Soak
from benchmarks.serving.process import RunningService
from benchmarks.soak.traffic import Timings, Traffic
from gradmem_core.errors import InputError
from service.load import percentiles

SAMPLE_SECONDS = 2.0
"Time between two looks at the process."

Held: TypeAlias = dict[str, int]
"Fields of `Soak` that say what a process and its store hold."


async def measure_part(
    traffic: Traffic,
    service: RunningService,
    store_bytes: Callable[[], int],
    *,
    store: str,
    part: int,
    seconds: float,
) -> Soak:
    """Send traffic for a time, and return what the service held and how fast it answered.

    Args:
        traffic: Traffic to the service.
        service: The service.
        store_bytes: Reads the size of its store.
        store: Name of the store.
        part: Number of the part, for the row.
        seconds: Length of the part.

    Raises:
        InputError: The system does not tell what a process holds, or nothing was answered.
    """
    seen = [_look(service, store_bytes)]

    async def watch() -> None:
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            seen.append(_look(service, store_bytes))

    watching = asyncio.create_task(watch())
    try:
        timings = await traffic.run(seconds)
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
    most = {name: max(held[name] for held in seen) for name in seen[0]}
    described = {"store": store, "part": part, "seconds": seconds}
    return Soak.model_validate(described | _summarize(timings) | most)


def _look(service: RunningService, store_bytes: Callable[[], int]) -> Held:
    resident, files, threads = service.resident_bytes(), service.open_files(), service.threads()
    if resident is None or files is None or threads is None:
        raise InputError("this system does not tell what a process holds; measure on Linux")
    return {
        "resident_bytes": resident,
        "open_files": files,
        "process_threads": threads,
        "store_bytes": store_bytes(),
    }


def _summarize(timings: Timings) -> dict[str, float | None]:
    """Return the fields of `Soak` about requests."""
    latencies = timings.latencies
    everything = list(chain(*latencies.values()))
    if not everything:
        raise InputError(f"none of {timings.failed} requests was answered as it should be")
    medians = {
        name: median(latencies[name]) if name in latencies else None
        for name in ("write", "read", "list", "delete")
    }
    _, p99 = percentiles(everything)
    return {"requests": len(everything), "failed": timings.failed, "p99": p99, **medians}
