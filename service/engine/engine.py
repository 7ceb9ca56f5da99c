"""The engine: requests that wait are batched and run on one device thread.

The event loop only queues and awaits; gradient steps never run on it.
"""

import asyncio
import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from gradmem_core.decode import Answer
from gradmem_core.errors import (
    DeviceError,
    EngineStoppedError,
    GradMemError,
    OutOfMemoryError,
    OverloadedError,
)
from service.engine.work import ReadWork, Result, Work, WriteWork, WrittenMemory, run_batch
from service.telemetry import Telemetry

logger = logging.getLogger("gradmem.engine")


@dataclass(frozen=True)
class Limits:
    """How much may wait and how much goes into a batch."""

    waiting: int
    "Most requests in the queue."
    batch_documents: int
    "Most documents of a WRITE batch."
    batch_queries: int
    "Most queries of a READ batch; a single request may pass it."
    threads: int | None
    "CPU threads; torch's own choice when None."


@dataclass
class _Job:
    """Work with the future that its request awaits."""

    work: Work
    future: "asyncio.Future[Result]"
    loop: asyncio.AbstractEventLoop

    def answer(self, outcome: Result | GradMemError) -> None:
        """Hand the outcome over to the event loop; a cancelled request is passed over."""
        # The loop is closed only after the engine has stopped, see the app's lifespan.
        self.loop.call_soon_threadsafe(self._settle, outcome)

    def _settle(self, outcome: Result | GradMemError) -> None:
        if self.future.done():
            return
        if isinstance(outcome, GradMemError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class Engine:
    """Batches work for one device.

    Every request is answered: with its result, with the error of its own work, or with the
    engine's. Use `start` before the first request and `stop` after the last.

    Args:
        limits: How much may wait and how much goes into a batch.
        telemetry: Where batches are counted.
        run: Does a batch; the real one unless a test puts a failing device in its place.
    """

    def __init__(
        self,
        limits: Limits,
        telemetry: Telemetry,
        run: Callable[[Sequence[Work]], list[Result]] = run_batch,
    ) -> None:
        self._limits = limits
        self._telemetry = telemetry
        self._run = run
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="gradmem-device", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the device thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the device thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the running batch, refuse what waits, and end the device thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    async def write(self, work: WriteWork) -> WrittenMemory:
        """Write a document.

        Raises:
            GradMemError: The document was refused, WRITE diverged, or an EngineError.
        """
        result = await self._submit(work)
        assert isinstance(result, WrittenMemory)
        return result

    async def read(self, work: ReadWork) -> list[Answer]:
        """Answer the queries of a memory.

        Raises:
            GradMemError: A query was refused, or an EngineError.
        """
        result = await self._submit(work)
        assert isinstance(result, list)
        return result

    async def _submit(self, work: Work) -> Result:
        loop = asyncio.get_running_loop()
        job = _Job(work, loop.create_future(), loop)
        with self._changed:
            if self._stopping or not self.alive:
                raise EngineStoppedError("the service is stopping; send the request to another")
            if len(self._waiting) >= self._limits.waiting:
                raise OverloadedError(
                    f"{self._limits.waiting} requests wait already; try again in a moment",
                    limit=self._limits.waiting,
                )
            self._waiting.append(job)
            self._telemetry.waiting.set(len(self._waiting))
            self._changed.notify()
        return await job.future

    def _work(self) -> None:
        """The device thread."""
        if self._limits.threads is not None:
            torch.set_num_threads(self._limits.threads)
        batch: list[_Job] = []
        try:
            while batch := self._next_batch():
                outcomes = self._attempt([job.work for job in batch])
                for job, outcome in zip(batch, outcomes, strict=True):
                    job.answer(outcome)
        finally:
            self._refuse(batch)

    def _refuse(self, batch: list[_Job]) -> None:
        """Answer the batch that the thread ends in and whoever waits; nobody can join them."""
        with self._changed:
            self._stopping = True
            waiting, self._waiting = self._waiting, deque()
        self._telemetry.waiting.set(0)
        for job in [*batch, *waiting]:  # those that have their answer keep it
            job.answer(EngineStoppedError("the service stopped before the request's turn"))

    def _next_batch(self) -> list[_Job]:
        """Wait for work and take the oldest with all that fits beside it; empty when stopping."""
        with self._changed:
            while True:
                if self._stopping:
                    return []
                # A request that was cancelled needs no work.
                self._waiting = deque(job for job in self._waiting if not job.future.done())
                if self._waiting:
                    return self._take()
                self._changed.wait()

    def _take(self) -> list[_Job]:
        first = self._waiting[0].work
        writing = isinstance(first, WriteWork)
        room = self._limits.batch_documents if writing else self._limits.batch_queries
        batch: list[_Job] = []
        left: deque[_Job] = deque()
        for job in self._waiting:
            fits = not batch or job.work.weight <= room
            if job.work.batch_key == first.batch_key and fits:
                batch.append(job)
                room -= job.work.weight
            else:
                left.append(job)
        self._waiting = left
        self._telemetry.waiting.set(len(left))
        return batch

    def _attempt(self, works: list[Work]) -> list[Result | GradMemError]:
        """Run a batch; where it fails, run each of its works alone, so that one fails alone."""
        try:
            return list(self._measured(works))
        except GradMemError as error:
            if len(works) == 1:
                return [error]
        return [outcome for work in works for outcome in self._attempt([work])]

    def _measured(self, works: list[Work]) -> list[Result]:
        kind = "write" if isinstance(works[0], WriteWork) else "read"
        started = time.perf_counter()
        try:
            results = self._run(works)
        except GradMemError:
            raise
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError("the device has no room for the batch; try again") from error
        except Exception as error:
            # The text of a library's error may hold a document; its place in the code does not.
            place = "".join(traceback.format_tb(error.__traceback__))
            logger.error("%s batch failed with %s\n%s", kind, type(error).__name__, place)
            raise DeviceError("the device failed while it worked on the request") from error
        self._telemetry.batch(
            kind, sum(work.weight for work in works), time.perf_counter() - started
        )
        return results
