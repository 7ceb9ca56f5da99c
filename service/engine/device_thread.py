"""The thread that gives a device its work."""

import logging
import threading
import time
from collections.abc import Callable

from gradmem_core.errors import EngineStoppedError
from service.engine.device import Device
from service.engine.observer import WorkObserver
from service.engine.pace import Pace
from service.engine.scheduler import BatchLimits, Job, Scheduler
from service.engine.threads import use_threads
from service.log import log_failure

logger = logging.getLogger("gradmem.engine")

STOPPING = "the service is stopping; send the request to another instance"
"Message to work that comes too late."
STOPPED = "the service stopped before the request was done"
"Message to work that comes to no end."


class DeviceThread:
    """Does jobs on a device of this process, on a thread of its own.

    All jobs are answered: with their result, with their own error, or with that of the thread. Use
    `start` before the first job and `stop` after the last.

    Args:
        device: The device.
        limits: Limits of a batch.
        observer: Observes the work.
        pace: Observes the time that it takes.
        threads: CPU threads of the device; None leaves the choice to torch.
        after_turn: Called on the thread after each piece of work on the device.
    """

    def __init__(
        self,
        device: Device,
        limits: BatchLimits,
        observer: WorkObserver,
        pace: Pace,
        *,
        threads: int | None = None,
        after_turn: Callable[[], None] = lambda: None,
    ) -> None:
        self.on_failure: Callable[[], None] = lambda: None
        "Called on the thread when it ends by itself: the device is lost."
        self._device = device
        self._observer = observer
        self._threads = threads
        self._after_turn = after_turn
        self._scheduler = Scheduler(device, limits, observer, pace=pace)
        self._arrivals: list[Job] = []
        self._deleted: list[str] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._step_began: float | None = None
        self._thread = threading.Thread(target=self._run, name="gradmem-device", daemon=True)

    @property
    def alive(self) -> bool:
        """True while the thread runs."""
        return self._thread.is_alive()

    @property
    def busy(self) -> bool:
        """True while there is work."""
        return bool(self._arrivals) or self._scheduler.busy

    @property
    def step_began(self) -> float | None:
        """Start of the step on the device, by `time.monotonic`; None between steps."""
        return self._step_began

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the current turn, refuse all remaining jobs, and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, job: Job) -> None:
        """Hand a job to the thread.

        Raises:
            EngineStoppedError: The thread is stopping.
        """
        with self._changed:
            if self._stopping or not self.alive:
                raise EngineStoppedError(STOPPING)
            self._arrivals.append(job)
            self._changed.notify()

    def forget(self, memory_id: str) -> None:
        """Drop what is cached of a memory that was deleted."""
        with self._changed:
            self._deleted.append(memory_id)
            self._changed.notify()

    def _run(self) -> None:
        """Give the device its work until it stops; the body of the thread."""
        use_threads(self._threads)
        lost = True
        try:
            while self._take_arrivals():
                self._step_began = time.monotonic()
                self._scheduler.turn()
                self._step_began = None
                self._after_turn()
            lost = False
        except Exception as error:
            log_failure(logger, "the device", error)
        finally:
            try:
                self._refuse_all()
            finally:
                if lost:
                    logger.critical("the device is lost")
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
        self._observer.observe_waiting(self._scheduler.waiting)
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
        self._scheduler.abandon(EngineStoppedError(STOPPED))
        self._observer.observe_waiting(0)
        self._after_turn()
