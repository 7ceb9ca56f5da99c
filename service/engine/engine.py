"""The engine: admits requests, and runs the scheduler on a thread of its own.

The event loop only admits and awaits; nothing of the device ever runs on it.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, cast

from torch import Tensor

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import (
    DeadlineError,
    EngineStoppedError,
    GradMemError,
    OverloadedError,
)
from gradmem_core.reading.answers import Answer
from gradmem_core.reading.decoding import Sampling
from gradmem_core.reading.generation import split_queries
from gradmem_core.writing.compression import Steps, WrittenPage
from service.engine.device import Device
from service.engine.scheduler import Job, Limits, Scheduler, log_place
from service.engine.threads import use_threads
from service.engine.work import (
    Event,
    PageId,
    ReadWork,
    Result,
    StepMade,
    TokenChosen,
    Work,
    WriteWork,
)
from service.telemetry import Telemetry

logger = logging.getLogger("gradmem.engine")

SHARE = 4
"A request takes at most one part in this many of the engine's room at a time, or one job."

Listener: TypeAlias = Callable[[Event], None]
"Called on the event loop with what happens on the way to a result."


@dataclass(frozen=True)
class Admission:
    """Who is let in."""

    tokens: int
    "Most tokens of all requests in the engine; a single request may pass it."
    seconds: float
    "Longest that a request may take."


@dataclass(frozen=True)
class Deadline:
    """When a request has to be answered, however many calls of the engine it takes."""

    seconds: float
    "That it was given."
    at: float
    "When they are over, by `time.monotonic`."


class _Request(Job):
    """A job with the future that somebody awaits."""

    def __init__(self, work: Work, *, deadline: float, listener: Listener | None) -> None:
        super().__init__(work, deadline=deadline, queued=time.monotonic())
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self.future: asyncio.Future[Result] = self._loop.create_future()

    @property
    def gone(self) -> bool:
        return self.future.done()

    def answer(self, outcome: Result | GradMemError) -> None:
        # The loop is closed only after the engine has stopped, see the app's lifespan.
        self._loop.call_soon_threadsafe(self._settle, outcome)

    def tell(self, event: Event) -> None:
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
    """Does work on one device, for many requests at a time.

    Every request is answered: with its result, with the error of its own work, or with the
    engine's. Use `start` before the first request and `stop` after the last.

    Args:
        device: Does the work.
        limits: How much goes into a batch.
        admission: Who is let in.
        telemetry: Where work is counted.
        threads: CPU threads of the device; torch's own choice when None.
    """

    def __init__(
        self,
        device: Device,
        limits: Limits,
        admission: Admission,
        telemetry: Telemetry,
        *,
        threads: int | None = None,
    ) -> None:
        self._device = device
        self._admission = admission
        self._telemetry = telemetry
        self._threads = threads
        self._scheduler = Scheduler(device, limits, telemetry)
        self._tokens = 0
        self._arrived: list[_Request] = []
        self._forgotten: list[str] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="gradmem-device", daemon=True)
        self.on_failure: Callable[[], None] = lambda: None
        "Called on the device thread when it ends by itself: the device is of no more use."

    @property
    def alive(self) -> bool:
        """Whether the device thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the device thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the running turn, refuse whoever is left, and end the device thread."""
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
        deadline: Deadline | None = None,
        listener: Callable[[StepMade], None] | None = None,
    ) -> list[WrittenPage]:
        """Write the pages of a document, many at a time.

        Args:
            checkpoint: What writes them.
            pages: The token ids of each, at least one page.
            steps: Gradient steps (K) of each.
            deadline: When all of it has to be done; the engine's own limit by default.
            listener: Told on the event loop of every gradient step.

        Returns:
            What came of each page.

        Raises:
            GradMemError: Of the first page that failed, which ends the others: WRITE diverged, or
                an EngineError.
        """
        jobs = [
            (WriteWork(checkpoint, ids, steps), _told_steps(listener, page))
            for page, ids in enumerate(pages)
        ]
        return cast("list[WrittenPage]", await self._do(jobs, deadline))

    async def read_pages(
        self,
        checkpoint: Checkpoint,
        memory: Tensor,
        page_ids: Sequence[PageId] | None,
        queries: Sequence[Sequence[int]],
        sampling: Sequence[Sampling],
        *,
        documents: Sequence[Hashable] | None = None,
        deadline: Deadline | None = None,
        listener: Callable[[TokenChosen], None] | None = None,
    ) -> list[Answer]:
        """Answer queries from the pages of a memory, many at a time.

        Args:
            checkpoint: What wrote the memory.
            memory: Its pages, `(p, m, d)`.
            page_ids: For each page the memory's id and its own, by which what is prefilled is kept
                for later requests; None keeps nothing.
            queries: Their token ids, within the checkpoint's limits (see `check_queries`).
            sampling: For each query how its tokens are chosen.
            documents: For each page what tells its document from others; all are of one by default.
            deadline: When all of it has to be done; the engine's own limit by default.
            listener: Told on the event loop of every token of every page.

        Returns:
            One answer for each query, of the page that counts.

        Raises:
            GradMemError: An EngineError, which ends all of it.
        """
        known = [None] * len(memory) if documents is None else documents
        jobs = [
            (
                ReadWork(checkpoint, memory, queries[part], sampling[part], known, page_ids),
                _told_tokens(listener, part.start),
            )
            for part in split_queries(len(queries), pages=len(memory))
        ]
        answers = cast("list[list[Answer]]", await self._do(jobs, deadline))
        return [answer for of_job in answers for answer in of_job]

    def deadline(self, seconds: float | None) -> Deadline:
        """When a request that comes now has to be answered.

        Args:
            seconds: Longest that it may take; the engine's own limit where that is shorter.
        """
        most = self._admission.seconds
        seconds = most if seconds is None else min(seconds, most)
        return Deadline(seconds, time.monotonic() + seconds)

    def forget(self, memory_id: str) -> None:
        """Keep nothing of a memory that was deleted."""
        with self._changed:
            self._forgotten.append(memory_id)
            self._changed.notify()

    async def _do(
        self, jobs: Sequence[tuple[Work, Listener | None]], deadline: Deadline | None
    ) -> list[Result]:
        """Do the work of one request, at most its share at a time; the first error ends it all."""
        end = deadline or self.deadline(None)
        largest = max(work.tokens for work, _ in jobs)
        room = asyncio.Semaphore(max(1, self._admission.tokens // SHARE // largest))

        async def do(work: Work, listener: Listener | None) -> Result:
            async with room:
                return await self._submit(_Request(work, deadline=end.at, listener=listener))

        try:
            async with asyncio.timeout(end.at - time.monotonic()), asyncio.TaskGroup() as group:
                tasks = [group.create_task(do(*job)) for job in jobs]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        except TimeoutError as error:
            raise DeadlineError(
                f"no result within {end.seconds:g} s; send less at a time, or allow more time"
            ) from error
        return [task.result() for task in tasks]

    async def _submit(self, request: _Request) -> Result:
        """Queue a request and await its result."""
        self._admit(request)
        try:
            return await request.future
        finally:
            with self._changed:
                self._tokens -= request.work.tokens

    def _admit(self, request: _Request) -> None:
        """Give a request its permit and queue it."""
        tokens, most = request.work.tokens, self._admission.tokens
        with self._changed:
            if self._stopping or not self.alive:
                raise EngineStoppedError("the service is stopping; send the request to another")
            if self._tokens and self._tokens + tokens > most:
                self._telemetry.rejected.inc()
                raise OverloadedError(
                    f"requests of {most} tokens are in work already; try again in a moment",
                    limit=most,
                )
            self._tokens += tokens
            self._arrived.append(request)
            self._changed.notify()

    def _work(self) -> None:
        """The device thread."""
        use_threads(self._threads)
        lost = True
        try:
            while self._take_in():
                self._scheduler.turn()
            lost = False
        except Exception as error:
            log_place("the device", error)
        finally:
            self._refuse()
            if lost:
                logger.critical("the device is of no more use; the service has to be restarted")
                self.on_failure()

    def _take_in(self) -> bool:
        """Hand over what came, waiting for it where there is no work; False when stopping."""
        with self._changed:
            while not (self._stopping or self._arrived or self._scheduler.busy):
                self._forget()
                self._changed.wait()
            arrived, self._arrived = self._arrived, []
            self._forget()
            stopping = self._stopping
        for request in arrived:
            self._scheduler.add(request)
        self._telemetry.waiting.set(self._scheduler.waiting)
        return not stopping

    def _forget(self) -> None:
        for memory_id in self._forgotten:
            self._device.forget(memory_id)
        self._forgotten.clear()

    def _refuse(self) -> None:
        """Answer whoever is left; nobody can join them."""
        with self._changed:
            self._stopping = True
            arrived, self._arrived = self._arrived, []
        for request in arrived:
            self._scheduler.add(request)
        self._scheduler.abandon(EngineStoppedError("the service stopped before it was done"))
        self._telemetry.waiting.set(0)


def _told_steps(listener: Callable[[StepMade], None] | None, page: int) -> Listener | None:
    """Tell of the steps of one of a request's pages."""
    if listener is None:
        return None

    def told(event: Event) -> None:
        assert isinstance(event, StepMade)
        listener(replace(event, page=page))

    return told


def _told_tokens(listener: Callable[[TokenChosen], None] | None, first: int) -> Listener | None:
    """Tell of the tokens of a request's queries from the one at `first`."""
    if listener is None:
        return None

    def told(event: Event) -> None:
        assert isinstance(event, TokenChosen)
        listener(replace(event, query=first + event.query))

    return told
