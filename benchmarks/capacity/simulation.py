"""The service's queue in simulated time: its own scheduler and admission, on a device of constants.

What is simulated is the device and the clock; which requests are taken on, and which are in a
batch, decide the classes of the engine. HTTP takes no time here, and no other program runs.
"""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import simpy
import torch

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import GradMemError, OverloadedError
from gradmem_core.writing.compression import TokenLosses, WrittenPage
from service.capacity.arithmetic import ModelShape
from service.capacity.constants import Rate
from service.engine import AdmissionLimits, BatchLimits, Event, Permit, TokenChosen, WriteWork
from service.engine.admission import Admission, Deadline
from service.engine.device import OngoingRead, OngoingWrite, WriteOutcome
from service.engine.pace import Pace
from service.engine.scheduler import Job, Scheduler
from service.engine.work import Result
from service.telemetry import Telemetry

SHARE = "client"
PAUSE_SECONDS = 0.01
"Time after which a worker that was refused comes again."
NOTHING = torch.empty(0)
"A memory that nobody reads."
UNKNOWN = TokenLosses([], [])
Process: TypeAlias = Generator[simpy.Event, Any, None]


@dataclass(frozen=True)
class Handled:
    """A request and its end."""

    began: float
    ended: float
    "Seconds since the start of the simulation."
    refused: bool


class SimulatedClock:
    """The simulation's time, and how far a turn of the device is ahead of it."""

    def __init__(self, environment: simpy.Environment) -> None:
        self._environment = environment
        self.ahead = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return float(self._environment.now) + self.ahead


class SimulatedDevice:
    """A `Device` of WRITE whose gradient steps take the time of a rate.

    Args:
        clock: Moved on by every step.
        rate: The speed.
        shape: Sizes of the only checkpoint.
    """

    def __init__(self, clock: SimulatedClock, rate: Rate, shape: ModelShape) -> None:
        self._clock = clock
        self._rate = rate
        self._shape = shape

    def write_step(self, writes: Sequence[OngoingWrite]) -> list[WriteOutcome]:
        """See `Device`; documents of a batch are padded to the longest."""
        longest = max(write.work.tokens for write in writes)
        flop = len(writes) * self._shape.gradient_step_flop(longest)
        self._clock.ahead += self._rate.pass_seconds + flop / self._rate.flops
        last = [write for write in writes if len(write.losses) + 1 == write.work.steps]
        self._clock.ahead += len(last) * self._shape.scoring_flop(longest) / self._rate.flops
        return [_count_step(write, last=write in last) for write in writes]

    def begin(self, reads: Sequence[OngoingRead]) -> None:
        """See `Device`; there is no READ here."""
        raise NotImplementedError

    def read_step(self, reads: Sequence[OngoingRead]) -> list[tuple[OngoingRead, TokenChosen]]:
        """See `Device`."""
        raise NotImplementedError

    def drop(self, reads: Sequence[OngoingRead]) -> None:
        """See `Device`."""

    def read(self, reads: Sequence[OngoingRead]) -> None:
        """See `Device`."""
        raise NotImplementedError

    def forget(self, memory_id: str) -> None:
        """See `Device`."""


def _count_step(write: OngoingWrite, *, last: bool) -> WriteOutcome:
    if last:
        return WrittenPage(NOTHING, [*write.losses, 0.0, 0.0], 1.0, UNKNOWN)
    write.losses.append(0.0)
    return None


class _SimulatedJob(Job):
    """A job whose answer ends its request once the turn is over."""

    def __init__(self, work: WriteWork, permit: Permit, now: float) -> None:
        super().__init__(work, deadline=permit.deadline.at, queued=now, share=permit.share)
        self.permit = permit
        self.answered = False

    @property
    def abandoned(self) -> bool:
        return False

    def answer(self, outcome: Result | GradMemError) -> None:  # noqa: ARG002 (every one ends it)
        self.answered = True

    def notify(self, event: Event) -> None:
        pass


class Simulation:
    """A service of one checkpoint that is written to.

    Args:
        checkpoint: The checkpoint; only its name and its size count.
        rate: Speed of the device at gradient steps.
        batch_limits: The service's.
        admission_limits: The service's.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        shape: ModelShape,
        rate: Rate,
        *,
        batch_limits: BatchLimits,
        admission_limits: AdmissionLimits,
    ) -> None:
        self._checkpoint = checkpoint
        self._environment = simpy.Environment()
        self._clock = SimulatedClock(self._environment)
        pace = Pace()
        self._admission = Admission(admission_limits, pace)
        self._longest = admission_limits.seconds
        device = SimulatedDevice(self._clock, rate, shape)
        self._scheduler = Scheduler(device, batch_limits, Telemetry(), pace=pace, clock=self._clock)
        self._arrivals: list[_SimulatedJob] = []
        self._jobs: dict[_SimulatedJob, simpy.Event] = {}
        self._wake = self._environment.event()
        self._environment.process(self._run_device())
        self.handled: list[Handled] = []
        "Requests in the order of their ends."

    @property
    def now(self) -> float:
        """Seconds since the start of the simulation."""
        return float(self._environment.now)

    def send_at(self, times: Iterable[float], *, tokens: int, steps: int) -> None:
        """Send a WRITE at each of some times, and run until all are answered.

        Args:
            times: Seconds from now, ascending.
            tokens: Tokens of each document.
            steps: Gradient steps of each.
        """

        def send() -> Process:
            start = self._environment.now
            under_way = []
            for due in times:
                yield self._environment.timeout(max(0.0, start + due - self._environment.now))
                request = self._request(tokens, steps)
                under_way.append(self._environment.process(request))
            yield self._environment.all_of(under_way)

        self._environment.run(self._environment.process(send()))

    def keep_busy(self, *, workers: int, seconds: float, tokens: int, steps: int) -> None:
        """Let workers send one WRITE after another for so long, and run to the last answer."""

        def work(end: float) -> Process:
            while self._environment.now < end:
                yield self._environment.process(self._request(tokens, steps))
                if self.handled[-1].refused:  # or the time would stand still
                    yield self._environment.timeout(PAUSE_SECONDS)

        end = self._environment.now + seconds
        crew = [self._environment.process(work(end)) for _ in range(workers)]
        self._environment.run(self._environment.all_of(crew))

    def _request(self, tokens: int, steps: int) -> Process:
        began = float(self._environment.now)
        work = WriteWork(self._checkpoint, [0] * tokens, steps)
        deadline = Deadline(self._longest, began + self._longest)
        try:
            permit = self._admission.admit([work], share=SHARE, deadline=deadline)
        except OverloadedError:
            self.handled.append(Handled(began, began, refused=True))
            return
        job = _SimulatedJob(work, permit, began)
        self._jobs[job] = self._environment.event()
        self._arrivals.append(job)
        if not self._wake.triggered:
            self._wake.succeed()
        yield self._jobs[job]
        self._admission.finish(permit, work)
        self._admission.release(permit)
        self.handled.append(Handled(began, float(self._environment.now), refused=False))

    def _run_device(self) -> Process:
        """Give the device its work, as the engine's thread does."""
        while True:
            while not (self._arrivals or self._scheduler.busy):
                self._wake = self._environment.event()
                yield self._wake
            arrivals, self._arrivals = self._arrivals, []
            for job in arrivals:
                self._scheduler.add(job)
            self._scheduler.turn()
            # What the turn answered is known at its end.
            ahead, self._clock.ahead = self._clock.ahead, 0.0
            yield self._environment.timeout(ahead)
            for job in [job for job in self._jobs if job.answered]:
                self._jobs.pop(job).succeed()
