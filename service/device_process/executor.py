"""Do the work of the engine in the device process."""

import asyncio
import logging
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import EngineStoppedError, GradMemError
from service.device_process.channel import pack, receive
from service.device_process.messages import (
    Begin,
    Cancel,
    DropCheckpoint,
    Finished,
    Forget,
    Happened,
    Heartbeat,
    Observed,
    Report,
    Request,
    Started,
    Timed,
)
from service.device_process.process import DeviceProcess
from service.engine.device_thread import STOPPED, STOPPING
from service.engine.executor import Listener
from service.engine.order import Order
from service.engine.pace import Pace
from service.engine.work import DeviceWork, Result
from service.telemetry import Telemetry

logger = logging.getLogger("gradmem.engine")


@dataclass(eq=False)
class _SentJob:
    """A job that the process has not answered yet."""

    future: asyncio.Future[Result]
    listener: Listener | None
    began: float | None = None
    "Time at which the device took it up, by `time.monotonic`."


class ProcessExecutor:
    """Sends work to the device process (an `Executor`).

    Args:
        process: The process.
        telemetry: Metrics of the work.
    """

    def __init__(self, process: DeviceProcess, telemetry: Telemetry) -> None:
        self.pace = Pace()
        self.on_failure: Callable[[], None] = lambda: None
        self._process = process
        self._telemetry = telemetry
        self._numbers = count()
        self._checkpoints: dict[int, int] = {}
        "Numbers of the loaded checkpoints, by the identity of the service's own copies."
        self._jobs: dict[int, _SentJob] = {}
        self._unsent: list[Request] = []
        "Requests until there is a writer."
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._ended = self._stopping = False
        self._step_began: float | None = None
        self._heard = time.monotonic()

    @property
    def alive(self) -> bool:
        """True while the process runs."""
        return not self._ended

    @property
    def step_seconds(self) -> float:
        """Time since the step on the device began, or since the process gave a sign of life."""
        began = self._heard if self._step_began is None else self._step_began
        return time.monotonic() - began

    def prepare(self, checkpoint: Checkpoint, reference: str) -> None:
        """Have the process load a checkpoint, before work of it comes; may be called on any thread.

        Args:
            checkpoint: The service's own copy, which loses its layers: only the process computes.
                Once it is dropped, the process drops its own.
            reference: Its folder, or its name if it is bundled.

        Raises:
            CheckpointError: It cannot be loaded, fails its self-test, or has changed.
            DeviceError: The device cannot be used.
            DeviceLostError: The process has ended.
        """
        number = next(self._numbers)
        self._process.load(number, reference, fingerprint=checkpoint.fingerprint)
        checkpoint.model.backbone.drop_layers()
        self._checkpoints[id(checkpoint)] = number
        weakref.finalize(checkpoint, self._unload, id(checkpoint)).atexit = False

    def start(self) -> None:
        """Begin to take work."""
        self._loop = asyncio.get_running_loop()
        self._receiving = self._loop.create_task(self._receive())

    def stop(self) -> None:
        """End the process, which refuses all remaining work."""
        self._stopping = True
        self._process.close()

    def forget(self, memory_id: str) -> None:
        """Drop what is cached of a memory that was deleted."""
        self._send(Forget(memory_id))

    async def run(
        self, work: DeviceWork, *, share: str, deadline: float, listener: Listener | None
    ) -> Result:
        """Do a piece of work (see `Executor`)."""
        if self._ended or self._stopping:
            raise EngineStoppedError(STOPPING)
        queued, number = time.monotonic(), next(self._numbers)
        order = Order.of(work, share=share, deadline=deadline, listened=listener is not None)
        self._send(Begin(number, self._checkpoints[id(work.checkpoint)], order))
        job = self._jobs[number] = _SentJob(asyncio.get_running_loop().create_future(), listener)
        try:
            return await job.future
        finally:
            del self._jobs[number]
            if job.future.cancelled():
                self._send(Cancel(number))
            self._telemetry.trace_work(work.operation, queued, job.began)

    def _unload(self, checkpoint_id: int) -> None:
        """Have the process drop a checkpoint; called on any thread, once nobody uses it."""
        number = self._checkpoints.pop(checkpoint_id)
        if self._loop is not None and not (self._ended or self._stopping):
            self._loop.call_soon_threadsafe(self._send, DropCheckpoint(number))

    def _send(self, request: Request) -> None:
        """Send at once: the device need not wait until this round of the loop is over."""
        if self._ended:
            return
        if self._writer is None:
            self._unsent.append(request)
        else:
            self._writer.write(pack(request))

    async def _receive(self) -> None:
        """Take the reports of the process until it ends."""
        try:
            reader, self._writer = await asyncio.open_unix_connection(sock=self._process.work)
            for request in self._unsent:
                self._send(request)
            self._unsent.clear()
            while True:
                reports = await receive(reader)
                self._step_began, self._heard = None, time.monotonic()
                for report in reports:
                    self._take(report)
        except (EOFError, OSError):
            pass
        except asyncio.CancelledError:  # the loop ends
            self._stopping = True
            raise
        finally:
            if self._writer is not None:
                self._writer.close()
            self._end()

    def _take(self, report: Report) -> None:
        match report:
            case Happened():
                job = self._jobs.get(report.job)
                if job is not None and job.listener is not None:
                    # Whatever it raises must not end the work of others.
                    asyncio.get_running_loop().call_soon(job.listener, report.event)
            case Started():
                if started := self._jobs.get(report.job):
                    started.began = report.at
            case Finished():
                if finished := self._jobs.get(report.job):
                    _settle(finished.future, report.result)
            case Observed():
                getattr(self._telemetry, report.method)(*report.arguments)
            case Timed():
                self.pace.observe(report.operation, report.checkpoint, report.units, report.seconds)
            case Heartbeat():
                self._step_began = report.step_began

    def _end(self) -> None:
        """Refuse all remaining work: the process has ended."""
        self._ended = True
        for job in self._jobs.values():
            _settle(job.future, EngineStoppedError(STOPPED))
        if not self._stopping:
            logger.critical("the device is lost: %s", self._process.describe_end())
            self.on_failure()


def _settle(future: asyncio.Future[Result], outcome: Result | GradMemError) -> None:
    if future.done():
        return
    if isinstance(outcome, GradMemError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
