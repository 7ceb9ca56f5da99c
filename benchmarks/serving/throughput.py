"""WRITE and READ under load, on every target in turn."""

import asyncio
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import partial

from benchmarks.rows import Load
from benchmarks.serving.documents import draw_documents, tokenize
from benchmarks.serving.targets import Target, run_in
from benchmarks.timing import Work, alternate
from gradmem_core.checkpoints.checkpoint import load_checkpoint
from gradmem_core.writing.descent import write
from service.load import LoadFigures, Request, Span, measure_load, summarize
from training.tasks.base import Example

PAIRS = 16
STEPS = 5
"Gradient steps (K) of every WRITE that is measured."
WRITERS = (1, 8, 32, 128)
READERS = (1, 8, 32, 64, 128)
BATCH = 32
"Documents of a ready batch."
FEW_READERS = 4
"Readers whose latency is measured beside the writers."
DIFFERENT = 64
"Different documents, taken in turn."
STEP_ROUNDS = 3


@dataclass(frozen=True)
class Throughput:
    """Measures WRITE and READ under load."""

    targets: Sequence[Target]
    elsewhere: Executor
    "A process that computes beside the engine."
    checkpoint: str
    "A folder or a bundled name."
    seconds: float
    "Length of one load."
    runs: int
    "Runs, of which each begins with another target."
    seed: int
    "Seed of the documents."

    async def measure_writes(self) -> list[Load]:
        """Measure WRITE at several concurrencies, and ready batches beside them."""
        documents = self._documents()
        rows: list[Load] = []
        for run in range(1, self.runs + 1):
            row = partial(Load, operation="write", run=run, pairs=PAIRS, steps=STEPS)
            for concurrency in WRITERS:
                for target in self._turned(run):
                    requests = target.writes(documents, steps=STEPS)
                    figures = await self._load(requests, concurrency)
                    rows.append(row(via=target.via, concurrency=concurrency, **asdict(figures)))
                if concurrency == BATCH:
                    figures = await run_in(
                        self.elsewhere,
                        write_ready_batches,
                        *(self.checkpoint, documents[:BATCH]),
                        seconds=self.seconds,
                    )
                    rows.append(row(via="ready batches", concurrency=BATCH, **asdict(figures)))
        return rows

    async def measure_reads(self) -> list[Load]:
        """Measure READ at several concurrencies, and beside writers."""
        requests = {target.via: await target.reads(self._documents()) for target in self.targets}
        rows: list[Load] = []
        for run in range(1, self.runs + 1):
            row = partial(Load, operation="read", run=run, pairs=PAIRS, steps=None)
            for concurrency in READERS:
                for target in self._turned(run):
                    figures = await self._load(requests[target.via], concurrency)
                    rows.append(row(via=target.via, concurrency=concurrency, **asdict(figures)))
            for target in self._turned(run):
                rows += await self._measure_beside_writers(run, target, requests[target.via])
        return rows

    async def _measure_beside_writers(
        self, run: int, target: Target, requests: Sequence[Request]
    ) -> list[Load]:
        documents = self._documents()
        idle = await self._load(requests, FEW_READERS)
        # This also starts the other process, in which the writers of a service run.
        step = await run_in(self.elsewhere, time_gradient_step, self.checkpoint, documents[:BATCH])

        async def read_later() -> LoadFigures:
            await asyncio.sleep(self.seconds / 5)
            return await self._load(requests, FEW_READERS)

        # The readers' window lies inside that of the writers, who have time to start.
        writers, readers = await asyncio.gather(
            target.load_writers(
                documents, steps=STEPS, concurrency=BATCH, seconds=1.4 * self.seconds
            ),
            read_later(),
        )
        row = partial(Load, run=run, via=target.via, pairs=PAIRS, gradient_step=step)
        few = partial(row, concurrency=FEW_READERS)
        return [
            few(operation="read alone", steps=None, **asdict(idle)),
            few(operation="read beside writers", steps=STEPS, **asdict(readers)),
            row(operation="writers beside read", steps=STEPS, concurrency=BATCH, **asdict(writers)),
        ]

    def _documents(self) -> list[Example]:
        return draw_documents(DIFFERENT, pairs=PAIRS, seed=self.seed)

    def _turned(self, run: int) -> Sequence[Target]:
        first = (run - 1) % len(self.targets)
        return [*self.targets[first:], *self.targets[:first]]

    async def _load(self, requests: Sequence[Request], concurrency: int) -> LoadFigures:
        return await measure_load(requests, concurrency=concurrency, seconds=self.seconds)


def write_ready_batches(name: str, documents: Sequence[Example], *, seconds: float) -> LoadFigures:
    """Write one ready batch again and again, for `seconds` at least.

    Args:
        name: Checkpoint, a folder or a bundled name.
        documents: The batch.
        seconds: Least length of the measurement.
    """
    work = _write_of(name, documents, STEPS)
    work()
    spans: list[Span] = []
    begin = time.perf_counter()
    while time.perf_counter() < begin + seconds:
        started = time.perf_counter()
        work()
        spans += [(started, time.perf_counter())] * len(documents)
    return summarize(spans, begin=begin, end=time.perf_counter())


def time_gradient_step(name: str, documents: Sequence[Example]) -> float:
    """Return the seconds of one gradient step: what `STEPS` take beyond one, median of rounds."""
    works = {"one": _write_of(name, documents, 1), "all": _write_of(name, documents, STEPS)}
    seconds = alternate(works, STEP_ROUNDS)
    return statistics.median(
        (longer - shorter) / (STEPS - 1)
        for shorter, longer in zip(seconds["one"], seconds["all"], strict=True)
    )


def _write_of(name: str, documents: Sequence[Example], steps: int) -> Work:
    checkpoint = load_checkpoint(name)
    batch = tokenize(checkpoint, documents)
    return partial(write, checkpoint.model, *batch, steps, create_graph=False)
