"""The engine: admit requests, and run the scheduler on a thread of its own.

The event loop only admits and awaits; no work of the device ever runs on it.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from gradmem_core.reading.sampling import Sampling
from gradmem_core.writing.compression import Steps, WrittenPage
from service.engine.admission import Admission, AdmissionLimits, Deadline, Permit
from service.engine.device import Device
from service.engine.pace import Operation, Pace
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
    list_reads,
    list_writes,
)
from service.log import log_failure
from service.telemetry import Telemetry

logger = logging.getLogger("gradmem.engine")

Listener: TypeAlias = Callable[[Any], None]
"Called on the event loop with the events of its work: `StepMade` of WRITE, `TokenChosen` of READ."


class _AwaitedJob(Job):
    """A job with the future of its result."""

    def __init__(
        self, work: DeviceWork, *, deadline: float, share: str, listener: Listener | None
    ) -> None:
        super().__init__(work, deadline=deadline, queued=time.monotonic(), share=share)
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
        threads: CPU threads of the device; None leaves the choice to torch.
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
        self._longest = admission_limits.seconds
        self._telemetry = telemetry
        self._threads = threads
        pace = Pace()
        self._admission = Admission(admission_limits, pace)
        self._scheduler = Scheduler(device, batch_limits, telemetry, pace=pace)
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

    @contextmanager
    def admit(
        self, works: Sequence[DeviceWork], *, share: str, deadline: Deadline
    ) -> Iterator[Permit]:
        """Take a request on, for as long as the body runs.

        Args:
            works: The work that is known of it, of one operation; at least one.
            share: The client, which gets a fair share of the device.
            deadline: Its deadline.

        Raises:
            OverloadedError: There is no room for it, or it would wait too long.
        """
        with self._counting_refusals():
            permit = self._admission.admit(works, share=share, deadline=deadline)
        try:
            yield permit
        finally:
            self._admission.release(permit)

    def refuse_if_full(self, operation: Operation, share: str, *, units: int = 0) -> None:
        """Refuse a request before its body is read, if it would be refused whatever it holds.

        Args:
            operation: The operation.
            share: The client.
            units: Most work that it can be, as `DeviceWork.units` counts it.

        Raises:
            OverloadedError: Every such request would be refused.
        """
        with self._counting_refusals():
            self._admission.refuse_if_full(operation, share, units=units)

    async def write_pages(
        self,
        checkpoint: Checkpoint,
        pages: Sequence[list[int]],
        steps: Steps,
        *,
        first_page: int = 0,
        permit: Permit | None = None,
        listener: Callable[[StepMade], None] | None = None,
    ) -> list[WrittenPage]:
        """Write the pages of a document, many at a time.

        Args:
            checkpoint: The checkpoint that writes.
            pages: Token ids of each page, at least one page.
            steps: Gradient steps (K) of each page.
            first_page: Number of the first page in the events.
            permit: That of the request; None for work of the service itself.
            listener: Called on the event loop with every gradient step.

        Returns:
            The result of each page.

        Raises:
            GradMemError: The first page that failed, which ends the others: WRITE diverged, or an
                EngineError.
        """
        works = list_writes(checkpoint, pages, steps, first_page=first_page)
        return cast("list[WrittenPage]", await self._run_all(works, permit, listener))

    async def read_pages(
        self,
        checkpoint: Checkpoint,
        memory: Tensor,
        page_keys: Sequence[PageKey] | None,
        queries: Sequence[Sequence[int]],
        sampling: Sequence[Sampling],
        *,
        permit: Permit | None = None,
    ) -> list[Answer]:
        """Answer queries from the pages of a memory, many at a time.

        Args:
            checkpoint: The checkpoint that wrote the memory.
            memory: Its pages, `(p, m, d)`.
            page_keys: Keys under which the prefilled pages are cached for later requests; None
                caches nothing.
            queries: Their token ids, within the checkpoint's limits (see `check_queries`).
            sampling: The sampling settings of each query.
            permit: That of the request; None for work of the service itself.

        Returns:
            The answer to each query, from the page chosen for it.

        Raises:
            GradMemError: An EngineError, which ends all of the work.
        """
        works = list_reads(checkpoint, memory, queries, sampling, page_keys=page_keys)
        return await self.answer(works, permit=permit)

    async def answer(
        self,
        works: Sequence[ReadWork],
        *,
        permit: Permit | None = None,
        listener: Callable[[TokenChosen], None] | None = None,
    ) -> list[Answer]:
        """Answer queries, as `list_reads` splits them; for the arguments see `write_pages`.

        Raises:
            GradMemError: An EngineError, which ends all of the work.
        """
        results = cast("list[list[Answer]]", await self._run_all(works, permit, listener))
        return [answer for answers in results for answer in answers]

    def deadline(self, seconds: float | None) -> Deadline:
        """Return the deadline of a request that arrives now.

        Args:
            seconds: Time that it asks for; the engine's own limit where that is shorter, or None.
        """
        most = self._longest
        seconds = most if seconds is None else min(seconds, most)
        return Deadline(seconds, time.monotonic() + seconds)

    def forget(self, memory_id: str) -> None:
        """Drop what is cached of a memory that was deleted."""
        with self._changed:
            self._deleted.append(memory_id)
            self._changed.notify()

    @contextmanager
    def _counting_refusals(self) -> Iterator[None]:
        try:
            yield
        except OverloadedError:
            self._telemetry.rejected.inc()
            raise

    async def _run_all(
        self, works: Sequence[DeviceWork], permit: Permit | None, listener: Listener | None
    ) -> list[Result]:
        """Run the work of a request; the first error ends it all."""
        end = permit.deadline if permit else self.deadline(None)
        try:
            async with asyncio.timeout(end.at - time.monotonic()), asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._run_one(work, permit, end, listener)) for work in works
                ]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        except TimeoutError as error:
            raise DeadlineError(
                f"no result within {end.seconds:g} s; send less at a time, or allow more time"
            ) from error
        return [task.result() for task in tasks]

    async def _run_one(
        self, work: DeviceWork, permit: Permit | None, end: Deadline, listener: Listener | None
    ) -> Result:
        share = permit.share if permit else ""
        job = _AwaitedJob(work, deadline=end.at, share=share, listener=listener)
        self._submit(job)
        try:
            return await job.future
        finally:
            self._telemetry.trace_work(work.operation, job.queued, job.began)
            if permit:
                self._admission.finish(permit, work)

    def _submit(self, job: _AwaitedJob) -> None:
        """Hand a job to the device thread.

        Raises:
            EngineStoppedError: The engine is stopping.
        """
        with self._changed:
            if self._stopping or not self.alive:
                raise EngineStoppedError(
                    "the service is stopping; send the request to another instance"
                )
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
