"""The device process: do the orders of a service until it ends."""

import gc
import logging
import os
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from weakref import WeakValueDictionary

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import CheckpointError, DeviceError, GradMemError
from service.device_process.channel import Channel
from service.device_process.messages import (
    Begin,
    Cancel,
    DropCheckpoint,
    Finished,
    Forget,
    Happened,
    Heartbeat,
    LoadCheckpoint,
    Observed,
    Report,
    Request,
    Started,
    Timed,
)
from service.devices import create_device_thread
from service.engine import Event, Operation
from service.engine.pace import Pace
from service.engine.scheduler import Job
from service.engine.threads import use_threads
from service.engine.work import DeviceWork, Result
from service.log import configure_logging, log_failure
from service.models import load_checkpoints
from service.self_test import try_checkpoint
from service.settings import Settings

logger = logging.getLogger("gradmem.engine")

HEARTBEAT_SECONDS = 5.0
LOST = 1
"Exit status of a process whose device is lost."


def work(control_fd: int, work_fd: int) -> None:
    """Load the checkpoints that a service names and do its orders, until it ends.

    Args:
        control_fd: Socket of the settings, and then of the checkpoints.
        work_fd: Socket of the orders.
    """
    control, orders = (Channel(socket.socket(fileno=number)) for number in (control_fd, work_fd))
    with suppress(EOFError, OSError):  # the service has ended
        settings = control.receive()
        configure_logging(settings.log_level, settings.log_format)
        use_threads(1)  # those of the device would not pay for what a self-test computes
        worker = DeviceWorker(settings, orders)
        worker.start()
        while True:
            control.send(worker.load(control.receive()))
    os._exit(0)  # at once, also in the middle of a step


class DeviceWorker:
    """Does the orders of a service on the device of this process.

    Args:
        settings: The operator's settings.
        channel: The channel of the orders and of what is reported.
    """

    def __init__(self, settings: Settings, channel: Channel) -> None:
        self._settings = settings
        self._channel = channel
        self._checkpoints: dict[int, Checkpoint] = {}
        self._jobs: WeakValueDictionary[int, _OrderedJob] = WeakValueDictionary()
        self._reports: list[Report] = []
        "Reports of the device thread until the end of its turn."
        self._thread = create_device_thread(
            settings,
            _Observer(self._reports),
            _Pace(self._reports),
            after_turn=self._send_reports,
        )
        self._thread.on_failure = lambda: os._exit(LOST)

    def start(self) -> None:
        """Take orders from now on."""
        self._thread.start()
        for body in (self._take_orders, self._send_heartbeats):
            threading.Thread(target=body, daemon=True).start()

    def load(self, wanted: LoadCheckpoint) -> GradMemError | None:
        """Load a checkpoint and try it; return the error that it ended with."""
        try:
            self._checkpoints[wanted.number] = self._load(wanted)
        except GradMemError as error:
            return error
        except Exception as error:  # whatever it is, those that are served stay
            log_failure(logger, "loading a checkpoint", error)
            return DeviceError(f"{wanted.reference} cannot be loaded on the device; see the log")
        # What is loaded stays: the garbage collector would go through all of it again and again.
        gc.collect()
        gc.freeze()
        return None

    def _load(self, wanted: LoadCheckpoint) -> Checkpoint:
        settings = self._settings
        [checkpoint] = load_checkpoints(
            [wanted.reference], device=settings.device, precision=settings.precision
        )
        if checkpoint.fingerprint != wanted.fingerprint:
            raise CheckpointError(
                f"{wanted.reference} was changed while it was loaded; load it again"
            )
        if settings.self_test:
            try_checkpoint(checkpoint, dtype=settings.blob_dtype)
        return checkpoint

    def _take_orders(self) -> None:
        """Do what the service asks for, until it ends; nobody waits for anything then."""
        try:
            while True:
                self._take(self._channel.receive())
        except (EOFError, OSError):
            os._exit(0)
        except Exception as error:  # whatever it is, the service must not wait for answers
            log_failure(logger, "the device process", error)
            os._exit(LOST)

    def _take(self, request: Request) -> None:
        match request:
            case Begin():
                work = request.order.open(self._checkpoints[request.checkpoint])
                job = self._jobs[request.job] = _OrderedJob(request, work, self._reports)
                self._thread.submit(job)
            case Cancel():
                if unwanted := self._jobs.get(request.job):
                    unwanted.cancel()
            case Forget():
                self._thread.forget(request.memory_id)
            case DropCheckpoint():
                del self._checkpoints[request.number]

    def _send_reports(self) -> None:
        if self._reports:
            self._send(self._reports)
            self._reports.clear()

    def _send_heartbeats(self) -> None:
        while True:
            self._send([Heartbeat(self._thread.step_began)])
            time.sleep(HEARTBEAT_SECONDS)

    def _send(self, reports: Sequence[Report]) -> None:
        try:
            self._channel.send(reports)
        except OSError:  # the service has ended
            os._exit(0)


class _OrderedJob(Job):
    """A job of an order, which reports what becomes of it."""

    def __init__(self, request: Begin, work: DeviceWork, reports: list[Report]) -> None:
        now, order = time.monotonic(), request.order
        super().__init__(work, deadline=now + order.seconds, queued=now, share=order.share)
        self._number = request.job
        self._listened = order.listened
        self._reports = reports
        self._cancelled = False

    @property
    def abandoned(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        """Have it dropped at the next turn."""
        self._cancelled = True

    def begin(self, now: float) -> None:
        super().begin(now)
        self._reports.append(Started(self._number, now))

    def answer(self, outcome: Result | GradMemError) -> None:
        self._reports.append(Finished(self._number, outcome))

    def notify(self, event: Event) -> None:
        if self._listened:
            self._reports.append(Happened(self._number, event))


class _Observer:
    """A `WorkObserver` that reports to the service, which has the metrics."""

    def __init__(self, reports: list[Report]) -> None:
        self._reports = reports

    def observe_waiting(self, jobs: int) -> None:
        self._report("observe_waiting", jobs)

    def observe_queue(self, operation: Operation, seconds: float) -> None:
        self._report("observe_queue", operation, seconds)

    def observe_gradient_step(self, lengths: Sequence[int], seconds: float) -> None:
        self._report("observe_gradient_step", list(lengths), seconds)

    def observe_token(self, queries: int, seconds: float) -> None:
        self._report("observe_token", queries, seconds)

    def count_cancelled(self) -> None:
        self._report("count_cancelled")

    def count_expired(self) -> None:
        self._report("count_expired")

    def _report(self, method: str, *arguments: object) -> None:
        self._reports.append(Observed(method, arguments))


class _Pace(Pace):
    """A pace that reports to the service, which asks for it."""

    def __init__(self, reports: list[Report]) -> None:
        super().__init__()
        self._reports = reports

    def observe(self, operation: Operation, checkpoint: str, units: int, seconds: float) -> None:
        self._reports.append(Timed(operation, checkpoint, units, seconds))
