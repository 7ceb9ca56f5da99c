"""Do the work that the engine has taken on: by a device thread of this process, or elsewhere."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from gradmem_core.errors import GradMemError
from service.engine.device import Device
from service.engine.device_thread import DeviceThread
from service.engine.pace import Pace
from service.engine.scheduler import BatchLimits, Job
from service.engine.work import DeviceWork, Event, Result
from service.telemetry import Telemetry

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
        """Time that the step on the device has taken so far; between steps, a few seconds at most.

        A device that gives no sign of life for longer is stuck.
        """

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
    """Does work on a device of this process (an `Executor`).

    Use `start` before the first work and `stop` after the last.

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
        self._telemetry = telemetry
        self._thread = DeviceThread(device, limits, telemetry, self.pace, threads=threads)
        self._thread.on_failure = lambda: self.on_failure()

    @property
    def alive(self) -> bool:
        """True while the device thread runs."""
        return self._thread.alive

    @property
    def step_seconds(self) -> float:
        """Time that the step on the device has taken so far; 0 between steps."""
        began = self._thread.step_began
        return 0.0 if began is None else time.monotonic() - began

    def start(self) -> None:
        """Start the device thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the current turn, refuse all remaining work, and end the device thread."""
        self._thread.stop()

    def forget(self, memory_id: str) -> None:
        """Drop what is cached of a memory that was deleted."""
        self._thread.forget(memory_id)

    async def run(
        self, work: DeviceWork, *, share: str, deadline: float, listener: Listener | None
    ) -> Result:
        """Do a piece of work (see `Executor`)."""
        job = _AwaitedJob(work, deadline=deadline, share=share, listener=listener)
        self._thread.submit(job)
        try:
            return await job.future
        finally:
            self._telemetry.trace_work(work.operation, job.queued, job.began)
