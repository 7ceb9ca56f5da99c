"""Do the work that the engine has taken on: by a device thread of this process, or elsewhere."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from gradmem_core.errors import EngineStoppedError, GradMemError
from service.engine.device import Device
from service.engine.pace import Pace
from service.engine.scheduler import BatchLimits, Job, Scheduler
from service.engine.threads import use_threads
from service.engine.work import DeviceWork, Event, Result
from service.log import log_failure
from service.telemetry import Telemetry

logger = logging.getLogger("gradmem.engine")

Listener: TypeAlias = Callable[[Any], None]
"Called on the event loop with the events of its work: `StepMade` of WRITE, `TokenChosen` of READ."


class Executor(Protocol):
    """Does work on devices, each piece of it apart from the others."""

    pace: Pace
    "Observes the time that work takes."
    on_failure: Callable[[], None]
    "Called on any thread when the executor ends by itself: its device is lost."

    @property
    def alive(self) -> bool:
        """True while it takes work."""

    @property
    def step_seconds(self) -> float:
        """Time that the step on the device has taken so far; 0 between steps."""

    def start(self) -> None:
        """Begin to take work."""

    def stop(self) -> None:
        """Refuse all remaining work, and end."""

    def forget(self, memory_id: str) -> None:
        """Drop what is cached of a memory that was deleted."""

    async def run(
        self, work: DeviceWork, *, share: str, deadline: float, listener: Listener | None
    ) -> Result:
        """Do a piece of work; when cancelled, give its place up.

        Args:
            work: The work.
            share: The client, which gets a fair share of the device.
            deadline: Time by which nobody wants it any more, by `time.monotonic`.
            listener: Called on the event loop with its events.

        Raises:
            GradMemError: WRITE diverged, or an EngineError.
        """


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


class DeviceExecutor:
    """Does work on a device of this process, on a thread of its own.

    All work is answered: with its result, with its own error, or with that of the executor. Use
    `start` before the first work and `stop` after the last.

    Args:
        device: The device.
        limits: Limits of a batch.
        telemetry: Metrics of the work.
        threads: CPU threads of the device; None leaves the choice to torch.
    """

    def __init__(
        self,
        device: Device,
        limits: BatchLimits,
        telemetry: Telemetry,
        *,
        threads: int | None = None,
    ) -> None:
        self.pace = Pace()
        self.on_failure: Callable[[], None] = lambda: None
        self._device = device
        self._telemetry = telemetry
        self._threads = threads
        self._scheduler = Scheduler(device, limits, telemetry, pace=self.pace)
        self._arrivals: list[_AwaitedJob] = []
        self._deleted: list[str] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._step_began: float | None = None
        self._thread = threading.Thread(target=self._run, name="gradmem-device", daemon=True)

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
        """Finish the current turn, refuse all remaining work, and end the device thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def forget(self, memory_id: str) -> None:
        """Drop what is cached of a memory that was deleted."""
        with self._changed:
            self._deleted.append(memory_id)
            self._changed.notify()

    async def run(
        self, work: DeviceWork, *, share: str, deadline: float, listener: Listener | None
    ) -> Result:
        """Do a piece of work (see `Executor`)."""
        job = _AwaitedJob(work, deadline=deadline, share=share, listener=listener)
        self._submit(job)
        try:
            return await job.future
        finally:
            self._telemetry.trace_work(work.operation, job.queued, job.began)

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
