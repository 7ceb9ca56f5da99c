"""Who gets the device next: one small piece of work a turn, without threads or a clock of its own.

A WRITE is K gradient steps, and between two of them READ goes first: requests join the decoding
batch and are answered to their end. Were there no end of them, new ones would wait after `BURST`
turns until a gradient step was made. So a READ that has room waits for one gradient step at most,
and a WRITE for `BURST` turns and the longest answer.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import (
    DeadlineError,
    DeviceError,
    GradMemError,
    OutOfMemoryError,
)
from gradmem_core.writing.compression import WrittenPage
from service.engine.device import Device, Reading, Writing
from service.engine.work import Event, ReadWork, Result, StepMade, Work, WriteWork
from service.log import place_of
from service.telemetry import Telemetry

logger = logging.getLogger("gradmem.engine")

BURST = 16
"Turns of READ after which new requests wait for a gradient step."
PATIENCE = 16
"Gradient steps for which others may pass the oldest document where it does not fit in."
STRETCH = 2
"How much longer the longest document of a batch may be than the shortest."
FATAL = (torch.AcceleratorError,)
"Errors after which the device is of no more use."

Item = TypeVar("Item", Writing, Reading)


@dataclass(frozen=True)
class Limits:
    """How much goes into a batch."""

    batch_tokens: int
    "Most tokens of a WRITE batch, padding included; a single document may pass it."
    batch_queries: int
    "Most answers of the decoding batch, one for each page of a query; a single job may pass it."
    step_work: int | None = None
    """Most tokens times parameters of a gradient step, which READ may have to wait for; None for no
    such limit. A single document may pass it."""

    def tokens_of(self, checkpoint: Checkpoint) -> int:
        """Return the most tokens of a WRITE batch of a checkpoint."""
        if self.step_work is None:
            return self.batch_tokens
        return min(self.batch_tokens, self.step_work // checkpoint.parameters)


@dataclass
class _Room:
    """What is left of a WRITE batch."""

    limits: Limits
    documents: int = 0
    longest: int = 0
    shortest: int = 0
    checkpoint: str = ""

    def fits(self, work: Work) -> bool:
        """Whether a document may join: the first always, others if they are like those within."""
        if not self.documents:
            return True
        longest, shortest = max(self.longest, work.tokens), min(self.shortest, work.tokens)
        return (
            (self.documents + 1) * longest <= self.limits.tokens_of(work.checkpoint)
            and longest <= STRETCH * shortest
            and work.checkpoint.name == self.checkpoint
        )

    def take(self, work: Work) -> None:
        """Count a document in."""
        self.longest = max(self.longest, work.tokens)
        self.shortest = min(self.shortest, work.tokens) if self.documents else work.tokens
        self.documents += 1
        self.checkpoint = work.checkpoint.name


class Job(ABC):
    """A request that waits for its work.

    Args:
        work: What to do.
        deadline: When it has expired, by the scheduler's clock.
        queued: When it came, by the same.
    """

    def __init__(self, work: Work, *, deadline: float, queued: float) -> None:
        self.work = work
        self.deadline = deadline
        self.queued = queued

    @property
    @abstractmethod
    def gone(self) -> bool:
        """Whether nobody waits for it any more."""

    @abstractmethod
    def answer(self, outcome: Result | GradMemError) -> None:
        """Hand the outcome over, once."""

    @abstractmethod
    def tell(self, event: Event) -> None:
        """Hand over what happens on the way."""


class Scheduler:
    """Gives the device to jobs, a turn at a time.

    Every job that is added is answered once, unless it is gone.

    Args:
        device: Does the work.
        limits: How much goes into a batch.
        telemetry: Where turns are counted.
        clock: Seconds, for deadlines and telemetry.
    """

    def __init__(
        self,
        device: Device,
        limits: Limits,
        telemetry: Telemetry,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._device = device
        self._limits = limits
        self._telemetry = telemetry
        self._clock = clock
        self._writes: deque[Job] = deque()
        self._reads: deque[Job] = deque()
        self._writing: dict[Writing, Job] = {}
        self._reading: dict[Reading, Job] = {}
        self._read_turns = 0
        self._passed_over = 0

    @property
    def busy(self) -> bool:
        """Whether there is work."""
        return bool(self._writes or self._reads or self._writing or self._reading)

    @property
    def waiting(self) -> int:
        """Jobs that have not begun."""
        return len(self._writes) + len(self._reads)

    def add(self, job: Job) -> None:
        """Queue a job."""
        (self._writes if isinstance(job.work, WriteWork) else self._reads).append(job)

    def turn(self) -> None:
        """Give the device one piece of work.

        Raises:
            Exception: The device is of no more use; `abandon` answers whoever is left.
        """
        self._sweep()
        if joining := self._joining():
            self._begin(joining)
        if self._reading:
            self._read_step()
        elif self._writes or self._writing:
            self._write_step()

    def abandon(self, error: GradMemError) -> None:
        """Answer every job that is left with an error."""
        left = [*self._writing.values(), *self._reading.values(), *self._writes, *self._reads]
        for waiting in (self._writes, self._reads, self._writing, self._reading):
            waiting.clear()
        for job in left:
            job.answer(error)

    def _sweep(self) -> None:
        """Drop jobs that are gone, and answer those that have expired."""
        now = self._clock()
        self._writes = deque(job for job in self._writes if self._is_wanted(job, now))
        self._reads = deque(job for job in self._reads if self._is_wanted(job, now))
        for writing, job in list(self._writing.items()):
            if not self._is_wanted(job, now):
                del self._writing[writing]
        unwanted = [r for r, job in self._reading.items() if not self._is_wanted(job, now)]
        for reading in unwanted:
            del self._reading[reading]
            self._device.drop([reading])

    def _is_wanted(self, job: Job, now: float) -> bool:
        if job.gone:
            self._telemetry.cancelled.inc()
            return False
        if now >= job.deadline:
            self._telemetry.expired.inc()
            job.answer(DeadlineError("the request's time was over before its work was done"))
            return False
        return True

    def _joining(self) -> list[Job]:
        """The READ jobs that begin now: the oldest with those of its checkpoint that fit."""
        if not self._reads:
            return []
        if self._read_turns >= BURST and (self._writes or self._writing):
            return []
        name = self._reads[0].work.checkpoint.name
        room = self._limits.batch_queries - sum(r.work.answers for r in self._reading)
        joining: list[Job] = []
        for job in self._reads:
            if job.work.checkpoint.name != name:
                continue
            answers = _read_work(job).answers
            if answers > room and (joining or self._reading):
                break
            joining.append(job)
            room -= answers
        return joining

    def _begin(self, jobs: list[Job]) -> None:
        chosen = set(map(id, jobs))
        self._reads = deque(job for job in self._reads if id(job) not in chosen)
        begun = {Reading(_read_work(job)): job for job in jobs}
        self._note_wait(jobs)
        self._reading |= begun
        failed = self._guarded(list(begun), self._device.begin)
        for reading, error in failed.items():
            self._finish_read(reading, error)

    def _read_step(self) -> None:
        """One token for every query of a checkpoint's batch, each checkpoint in its turn."""
        self._read_turns += 1
        name = next(iter(self._reading)).checkpoint.name
        batch = [reading for reading in self._reading if reading.checkpoint.name == name]
        started = self._clock()
        try:
            told = self._device.read_step(batch)
        except FATAL:
            raise
        except Exception as error:  # whatever it is: everyone begins again, apart from the others
            log_place("read", error)
            self._device.drop(batch)
            self._read_apart(batch)
            return
        self._telemetry.decode_step(len(told), self._clock() - started)
        for reading, event in told:
            self._reading[reading].tell(event)
        for reading in batch:
            if reading.done:
                self._finish_read(reading, _answers(reading))
            else:  # to the end of the line, so that another checkpoint's turn comes
                self._reading[reading] = self._reading.pop(reading)

    def _read_apart(self, batch: list[Reading]) -> None:
        failed = self._guarded(batch, self._device.read)
        for reading in batch:
            self._finish_read(reading, failed.get(reading) or _answers(reading))

    def _finish_read(self, reading: Reading, outcome: Result | GradMemError) -> None:
        self._reading.pop(reading).answer(outcome)

    def _write_step(self) -> None:
        self._read_turns = 0
        self._admit_writes()
        batch = list(self._writing)
        outcomes: dict[Writing, Result | GradMemError | None] = {}

        def step(part: Sequence[Writing]) -> None:
            started = self._clock()
            made = self._device.write_step(part)
            lengths = [writing.work.tokens for writing in part]
            self._telemetry.write_step(lengths, self._clock() - started)
            outcomes.update(zip(part, made, strict=True))

        steps_before = {writing: len(writing.losses) for writing in batch}
        outcomes |= self._guarded(batch, step)
        for writing in batch:
            outcome = outcomes[writing]
            losses = outcome.losses if isinstance(outcome, WrittenPage) else writing.losses
            made = steps_before[writing] + 1
            if len(losses) >= made:
                self._writing[writing].tell(StepMade(made, losses[made - 1]))
            if outcome is not None:
                self._writing.pop(writing).answer(outcome)

    def _admit_writes(self) -> None:
        """Let documents join the batch that fit beside it: the oldest first."""
        room = _Room(self._limits)
        for writing in self._writing:
            room.take(writing.work)
        left: deque[Job] = deque()
        admitted: list[Job] = []
        for place, job in enumerate(self._writes):
            if room.fits(job.work):
                room.take(job.work)
                self._writing[Writing(_write_work(job))] = job
                admitted.append(job)
                continue
            left.append(job)
            if place == 0:
                self._passed_over += 1
                if self._passed_over > PATIENCE:
                    left.extend(list(self._writes)[1:])
                    break
        if not left or left[0] is not self._writes[0]:
            self._passed_over = 0
        self._writes = left
        self._note_wait(admitted)

    def _guarded(
        self, items: list[Item], run: Callable[[Sequence[Item]], object]
    ) -> dict[Item, GradMemError]:
        """Run a batch so that what fails fails alone: the errors of those that did.

        A batch that the device has no room for is halved once; any other is done one by one.
        """
        error = _failure(items, run)
        if error is None:
            return {}
        if len(items) == 1:
            return {items[0]: _translated(error)}
        size = (len(items) + 1) // 2 if isinstance(error, torch.OutOfMemoryError) else 1
        errors: dict[Item, GradMemError] = {}
        for start in range(0, len(items), size):
            part = items[start : start + size]
            if error := _failure(part, run):
                errors |= dict.fromkeys(part, _translated(error))
        return errors

    def _note_wait(self, jobs: Sequence[Job]) -> None:
        now = self._clock()
        for job in jobs:
            self._telemetry.queue_seconds.labels(_kind(job.work)).observe(now - job.queued)


def _failure(items: Sequence[Item], run: Callable[[Sequence[Item]], object]) -> Exception | None:
    """Run a batch; what it raised, but for what ends the engine."""
    try:
        run(items)
    except FATAL:
        raise
    except Exception as error:  # whatever it is, it is the batch's alone
        return error
    return None


def _translated(error: Exception) -> GradMemError:
    if isinstance(error, GradMemError):
        return error
    if isinstance(error, torch.OutOfMemoryError):
        found: GradMemError = OutOfMemoryError("the device has no room for the batch; try again")
    else:
        log_place("batch", error)
        found = DeviceError("the device failed while it worked on the request")
    found.__cause__ = error
    return found


def log_place(what: str, error: Exception) -> None:
    """Log what failed and where, not what the error says."""
    logger.error("%s failed with %s\n%s", what, type(error).__name__, place_of(error))


def _kind(work: Work) -> str:
    return "write" if isinstance(work, WriteWork) else "read"


def _read_work(job: Job) -> ReadWork:
    assert isinstance(job.work, ReadWork)
    return job.work


def _write_work(job: Job) -> WriteWork:
    assert isinstance(job.work, WriteWork)
    return job.work


def _answers(reading: Reading) -> Result:
    return [reading.answers[query] for query in range(len(reading.work.queries))]
