"""WRITE alone and beside another busy process, for ways in which OpenMP's threads wait."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing, contextmanager

from benchmarks.rows import Company, Waiting
from benchmarks.serving.documents import draw_documents
from benchmarks.serving.process import STOP_SECONDS, run_service
from benchmarks.serving.targets import HttpTarget
from benchmarks.serving.throughput import DIFFERENT, PAIRS, STEPS
from service.load import measure_load
from service.settings import Settings

WAITS: dict[Waiting, dict[str, str]] = {
    "asleep": {"OMP_WAIT_POLICY": "PASSIVE"},
    "20,000 rounds": {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "20000"},
    "300,000 rounds": {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "300000"},
}
"Environments of the service; the last is what libgomp does by itself."
WRITERS = 4
"Concurrent requests; few, because the last ones may take minutes where threads spin in vain."
ENDLESS = "while True: pass"


async def measure_company(
    settings: Settings, *, threads: int, seconds: float, runs: int, seed: int
) -> list[Company]:
    """Measure WRITE through HTTP, with each way of waiting and with one thread.

    Args:
        settings: The service's.
        threads: Its CPU threads, except for one.
        seconds: Length of each measurement.
        runs: Number of times each is measured.
        seed: Seed of the documents.
    """
    documents = draw_documents(DIFFERENT, pairs=PAIRS, seed=seed)
    ways: list[tuple[Waiting, int]] = [(waiting, threads) for waiting in WAITS]
    rows: list[Company] = []
    for run in range(1, runs + 1):
        for waiting, count in [*ways, ("asleep", 1)]:
            environment = WAITS[waiting] | {"GRADMEM_THREADS": str(count)}
            with run_service(settings, environment) as service:
                async with aclosing(HttpTarget(service.url)) as target:
                    requests = target.writes(documents, steps=STEPS)
                    for busy in (0, 1):
                        with _busy_processes(busy):
                            figures = await measure_load(
                                requests, concurrency=WRITERS, seconds=seconds
                            )
                        row = Company(
                            run=run,
                            waiting=waiting,
                            device_threads=count,
                            busy=busy,
                            throughput=figures.throughput,
                            failed=figures.failed,
                        )
                        rows.append(row)
    return rows


@contextmanager
def _busy_processes(count: int) -> Iterator[None]:
    """Keep processes busy with nothing as long as the body runs."""
    command = [sys.executable, "-c", ENDLESS]
    processes = [subprocess.Popen(command) for _ in range(count)]  # noqa: S603
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait(STOP_SECONDS)
