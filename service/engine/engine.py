"""The engine: admit requests, and run the scheduler on a thread of its own.

The event loop only admits and awaits; no work of the device ever runs on it.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from torch import Tensor

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import (
    DeadlineError,
    EngineStoppedError,
    GradMemError,
    OverloadedError,
)
from gradmem_core.reading.answers import Answer
from gradmem_core.reading.generation import split_queries
from gradmem_core.reading.sampling import Sampling
from gradmem_core.writing.compression import Steps, WrittenPage
from service.engine.device import Device
from service.engine.scheduler import BatchLimits, Job, Scheduler
from service.engine.threads import use_threads
from service.engine.work import (
    DeviceWork,
    Event,
    PageKey,
    ReadWork,
    Result,
    StepMade,
    TokenChosen,
    WriteWork,
)
from service.log import log_failure
from service.telemetry import Telemetry

logger = logging.getLogger("gradmem.engine")

SHARES = 4
"A request takes at most one part in this many of the engine's room at a time, or a single job."

Listener: TypeAlias = Callable[[Any], None]
"Called on the event loop with the events of its work: `StepMade` of WRITE, `TokenChosen` of READ."


@dataclass(frozen=True)
class AdmissionLimits:
    """Limits on the requests that the engine takes on."""

    tokens: int
    "Most tokens of all requests in the engine; a single request may exceed it."
    seconds: float
    "Longest time that a request may take."


@dataclass(frozen=True)
class Deadline:
    """The time by which a request has to be answered, over all of its calls of the engine."""

    seconds: float
    "Time that the request was given."
    at: float
    "End of that time, by `time.monotonic`."


class _AwaitedJob(Job):
    """A job with the future of its result."""

    def __init__(self, work: DeviceWork, *, deadline: float, listener: Listener | None) -> None:
        super().__init__(work, deadline=deadline, queued=time.monotonic())
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self.future: asyncio.Future[Result] = self._loop.create_future()

    @property
    def abandoned(self) -> bool:
        return self.future.done()

    def answer(self, outcome: Result | GradMemError) -> None:
        # The loop is closed only after the engine has stopped, see the app's lifespan.
        self._loop.call_soon_threadsafe(self._settle, outcome)

    def notify(self, event: Event) -> None:
        if self._listener is not None:
            self._loop.call_soon_threadsafe(self._listener, event)

    def _settle(self, outcome: Result | GradMemError) -> None:
        if self.future.done():
            return
        if isinstance(outcome, GradMemError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class Engine:
    """Runs the work of many requests on one device.

    Every request is answered: with its result, with the error of its own work, or with the
    engine's. Use `start` before the first request and `stop` after the last.

    Args:
        device: The device.
        batch_limits: Limits of a batch.
        admission_limits: Limits on the requests taken on.
        telemetry: Metrics of the work.
        threads: CPU threads of the device; torch's own choice when None.
    """

    def __init__(
        self,
        device: Device,
        batch_limits: BatchLimits,
        admission_limits: AdmissionLimits,
        telemetry: Telemetry,
        *,
        threads: int | None = None,
    ) -> None:
        self._device = device
        self._limits = admission_limits
        self._telemetry = telemetry
        self._threads = threads
        self._scheduler = Scheduler(device, batch_limits, telemetry)
        self._tokens = 0
        self._arrivals: list[_AwaitedJob] = []
        self._deleted: list[str] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._step_began: float | None = None
        self._thread = threading.Thread(target=self._run, name="gradmem-device", daemon=True)
        self.on_failure: Callable[[], None] = lambda: None
        "Called on the device thread when it ends by itself: the device is lost."

    @property
    def alive(self) -> bool:
        """True while the device thread runs."""
        return self._thread.is_alive()

    @property
    def step_seconds(self) -> float:
        """Time that the step on the device has taken so far; 0 between steps."""
        began = self._step_began
        return 0.0 if began is None else time.monotonic() - began

    def start(self) -> None:
        """Start the device thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the current turn, refuse all remaining requests, and end the device thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    async def write_pages(
        self,
        checkpoint: Checkpoint,
        pages: Sequence[list[int]],
        steps: Steps,
        *,
        first_page: int = 0,
        deadline: Deadline | None = None,
        listener: Callable[[StepMade], None] | None = None,
    ) -> list[WrittenPage]:
        """Write the pages of a document, many at a time.

        Args:
            checkpoint: The checkpoint that writes.
            pages: Token ids of each page, at least one page.
            steps: Gradient steps (K) of each page.
            first_page: Number of the first page in the events.
            deadline: Deadline of the request; the engine's own limit by default.
            listener: Called on the event loop with every gradient step.

        Returns:
            The result of each page.

        Raises:
            GradMemError: The first page that failed, which ends the others: WRITE diverged, or an
                EngineError.
        """
        works = [
            WriteWork(checkpoint, ids, steps, number)
            for number, ids in enumerate(pages, start=first_page)
        ]
        return cast("list[WrittenPage]", await self._run_all(works, deadline, listener))

    async def read_pages(
        self,
        checkpoint: Checkpoint,
        memory: Tensor,
        page_keys: Sequence[PageKey] | None,
        queries: Sequence[Sequence[int]],
        sampling: Sequence[Sampling],
        *,
        documents: Sequence[Hashable] | None = None,
        deadline: Deadline | None = None,
        listener: Callable[[TokenChosen], None] | None = None,
    ) -> list[Answer]:
        """Answer queries from the pages of a memory, many at a time.

        Args:
            checkpoint: The checkpoint that wrote the memory.
            memory: Its pages, `(p, m, d)`.
            page_keys: Keys under which the prefilled pages are cached for later requests; None
                caches nothing.
            queries: Their token ids, within the checkpoint's limits (see `check_queries`).
            sampling: The sampling settings of each query.
            documents: Key of each page's document; all pages are of one document by default.
            deadline: Deadline of the request; the engine's own limit by default.
            listener: Called on the event loop with every token of every page.

        Returns:
            The answer to each query, from the page chosen for it.

        Raises:
            GradMemError: An EngineError, which ends all of the work.
        """
        documents = [None] * len(memory) if documents is None else documents
        works = [
            ReadWork(
                checkpoint,
                memory,
                queries[part],
                sampling[part],
                documents,
                page_keys,
                first_query=part.start,
            )
            for part in split_queries(len(queries), pages=len(memory))
        ]
        results = cast("list[list[Answer]]", await self._run_all(works, deadline, listener))
        return [answer for answers in results for answer in answers]

    def deadline(self, seconds: float | None) -> Deadline:
        """Return the deadline of a request that arrives now.

        Args:
            seconds: Time that it asks for; the engine's own limit where that is shorter, or None.
        """
        most = self._limits.seconds
        seconds = most if seconds is None else min(seconds, most)
        return Deadline(seconds, time.monotonic() + seconds)

    def forget(self, memory_id: str) -> None:
        """Drop what is cached of a memory that was deleted."""
        with self._changed:
            self._deleted.append(memory_id)
            self._changed.notify()

    async def _run_all(
        self,
        works: Sequence[DeviceWork],
        deadline: Deadline | None,
        listener: Listener | None,
    ) -> list[Result]:
        """Run the work of a request, at most its share at a time; the first error ends it all."""
        end = deadline or self.deadline(None)
        largest = max(work.tokens for work in works)
        share = asyncio.Semaphore(max(1, self._limits.tokens // SHARES // largest))
        try:
            async with asyncio.timeout(end.at - time.monotonic()), asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._run_one(work, share, end, listener)) for work in works
                ]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        except TimeoutError as error:
            raise DeadlineError(
                f"no result within {end.seconds:g} s; send less at a time, or allow more time"
            ) from error
        return [task.result() for task in tasks]

    async def _run_one(
        self,
        work: DeviceWork,
        share: asyncio.Semaphore,
        deadline: Deadline,
        listener: Listener | None,
    ) -> Result:
        async with share:
            job = _AwaitedJob(work, deadline=deadline.at, listener=listener)
            self._admit(job)
            try:
                return await job.future
            finally:
                with self._changed:
                    self._tokens -= work.tokens

    def _admit(self, job: _AwaitedJob) -> None:
        """Take a job on, or refuse it.

        Raises:
            OverloadedError: There is no room for it now.
            EngineStoppedError: The engine is stopping.
        """
        tokens, most = job.work.tokens, self._limits.tokens
        with self._changed:
            if self._stopping or not self.alive:
                raise EngineStoppedError(
                    "the service is stopping; send the request to another instance"
                )
            if self._tokens and self._tokens + tokens > most:
                self._telemetry.rejected.inc()
                raise OverloadedError(
                    f"the service is working on {most} tokens already; try again in a moment",
                    limit=most,
                )
            self._tokens += tokens
            self._arrivals.append(job)
            self._changed.notify()

    def _run(self) -> None:
        """Give the device its work until the engine stops; the body of the device thread."""
        use_threads(self._threads)
        lost = True
        try:
            while self._take_arrivals():
                self._step_began = time.monotonic()
                self._scheduler.turn()
                self._step_began = None
            lost = False
        except Exception as error:
            log_failure(logger, "the device", error)
        finally:
            self._refuse_all()
            if lost:
                logger.critical("the device is lost; restart the service")
                self.on_failure()

    def _take_arrivals(self) -> bool:
        """Hand new jobs to the scheduler, waiting where there is no work; False when stopping."""
        with self._changed:
            while not (self._stopping or self._arrivals or self._scheduler.busy):
                self._forget_deleted()
                self._changed.wait()
            arrivals, self._arrivals = self._arrivals, []
            self._forget_deleted()
            stopping = self._stopping
        for job in arrivals:
            self._scheduler.add(job)
        self._telemetry.waiting.set(self._scheduler.waiting)
        return not stopping

    def _forget_deleted(self) -> None:
        for memory_id in self._deleted:
            self._device.forget(memory_id)
        self._deleted.clear()

    def _refuse_all(self) -> None:
        """Answer every remaining job with an error; no more can arrive."""
        with self._changed:
            self._stopping = True
            arrivals, self._arrivals = self._arrivals, []
        for job in arrivals:
            self._scheduler.add(job)
        self._scheduler.abandon(
            EngineStoppedError("the service stopped before the request was done")
        )
        self._telemetry.waiting.set(0)
