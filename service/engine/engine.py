"""The engine: admits requests, and runs the scheduler on a thread of its own.

The event loop only admits and awaits; nothing of the device ever runs on it.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from gradmem_core.decode import Answer
from gradmem_core.errors import (
    DeadlineError,
    EngineStoppedError,
    GradMemError,
    OverloadedError,
)
from service.engine.device import Device
from service.engine.scheduler import Job, Limits, Scheduler, log_place
from service.engine.work import Event, ReadWork, Result, Work, WriteWork, WrittenMemory
from service.telemetry import Telemetry

logger = logging.getLogger("gradmem.engine")

Listener: TypeAlias = Callable[[Event], None]
"Called on the event loop with what happens on the way to a result."


@dataclass(frozen=True)
class Admission:
    """Who is let in."""

    tokens: int
    "Most tokens of all requests in the engine; a single request may pass it."
    seconds: float
    "Longest that a request may take."


class _Request(Job):
    """A job with the future that its request awaits."""

    def __init__(self, work: Work, *, seconds: float, listener: Listener | None) -> None:
        now = time.monotonic()
        super().__init__(work, deadline=now + seconds, queued=now)
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

    @property
    def admission(self) -> Admission:
        """Who is let in."""
        return self._admission

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

    async def write(
        self,
        work: WriteWork,
        *,
        seconds: float | None = None,
        listener: Listener | None = None,
    ) -> WrittenMemory:
        """Write a document.

        Args:
            work: The document.
            seconds: Longest that it may take; the engine's own limit where that is shorter.
            listener: Told of every gradient step.

        Raises:
            GradMemError: WRITE diverged, or an EngineError.
        """
        result = await self._submit(work, seconds, listener)
        assert isinstance(result, WrittenMemory)
        return result

    async def read(
        self, work: ReadWork, *, seconds: float | None = None, listener: Listener | None = None
    ) -> list[Answer]:
        """Answer the queries of a memory.

        Args:
            work: Memory and queries.
            seconds: Longest that it may take; the engine's own limit where that is shorter.
            listener: Told of every token.

        Raises:
            GradMemError: An EngineError.
        """
        result = await self._submit(work, seconds, listener)
        assert isinstance(result, list)
        return result

    def forget(self, memory_id: str) -> None:
        """Keep nothing of a memory that was deleted."""
        with self._changed:
            self._forgotten.append(memory_id)
            self._changed.notify()

    async def _submit(self, work: Work, seconds: float | None, listener: Listener | None) -> Result:
        most = self._admission.seconds
        seconds = most if seconds is None else min(seconds, most)
        request = _Request(work, seconds=seconds, listener=listener)
        self._admit(request)
        try:
            async with asyncio.timeout(seconds):
                return await request.future
        except TimeoutError as error:
            raise DeadlineError(
                f"no result within {seconds:g} s; send less at a time, or allow more time"
            ) from error
        finally:
            with self._changed:
                self._tokens -= work.tokens

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
        if self._threads is not None:
            torch.set_num_threads(self._threads)
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
