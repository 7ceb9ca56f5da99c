"""Decide which work the device does next: a small piece each turn, without threads or a clock.

A WRITE is K gradient steps, and between two of them READ goes first: requests join the decoding
batch and are answered to their end. If they never end, new ones wait after `BURST` turns until a
gradient step is made. So a READ that has room waits for at most one gradient step, and a WRITE for
at most `BURST` turns and the longest answer.

The batch of each gradient step is chosen anew, in fair shares of the clients (see `shares`). Pages
that were begun may pause for those of a client that has had less, which therefore waits for at most
one gradient step and as many more as there are other clients.
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
from service.engine.device import Device, OngoingRead, OngoingWrite
from service.engine.observer import WorkObserver
from service.engine.pace import Pace, Stopwatch
from service.engine.shares import FairShares
from service.engine.work import DeviceWork, Event, ReadWork, Result, StepMade, WriteWork
from service.log import log_failure

logger = logging.getLogger("gradmem.engine")

BURST = 16
"Turns of READ after which new requests wait for a gradient step."
STRETCH = 2
"Largest ratio of the longest to the shortest document of a batch."
FATAL = (torch.AcceleratorError,)
"Errors after which the device is lost."

Item = TypeVar("Item", OngoingWrite, OngoingRead)


@dataclass(frozen=True)
class BatchLimits:
    """Limits of the batches on the device."""

    batch_tokens: int
    "Most tokens of a WRITE batch, padding included; a single document may exceed it."
    batch_queries: int
    "Most answers of the decoding batch, one for each page of a query; a single job may exceed it."
    step_work: int | None = None
    """Most tokens times parameters of a gradient step, which READ may have to wait for; None for no
    such limit. A single document may exceed it."""

    def tokens_of(self, checkpoint: Checkpoint) -> int:
        """Return the most tokens of a WRITE batch of a checkpoint."""
        if self.step_work is None:
            return self.batch_tokens
        return min(self.batch_tokens, self.step_work // checkpoint.parameters)


@dataclass
class _Room:
    """The room left in a WRITE batch."""

    limits: BatchLimits
    documents: int = 0
    longest: int = 0
    shortest: int = 0
    checkpoint: Checkpoint | None = None

    def fits(self, work: DeviceWork) -> bool:
        """Return whether a document may join: the first always, others if they are alike."""
        if not self.documents:
            return True
        longest, shortest = max(self.longest, work.tokens), min(self.shortest, work.tokens)
        return (
            (self.documents + 1) * longest <= self.limits.tokens_of(work.checkpoint)
            and longest <= STRETCH * shortest
            and work.checkpoint is self.checkpoint
        )

    def add(self, work: DeviceWork) -> None:
        """Count a document as part of the batch."""
        self.longest = max(self.longest, work.tokens)
        self.shortest = min(self.shortest, work.tokens) if self.documents else work.tokens
        self.documents += 1
        self.checkpoint = work.checkpoint


class Job(ABC):
    """A piece of work in the queue.

    Args:
        work: The work.
        deadline: Time at which it expires, by the scheduler's clock.
        queued: Time at which it arrived, by the same clock.
        share: The client that it is for.
    """

    def __init__(
        self, work: DeviceWork, *, deadline: float, queued: float, share: str = ""
    ) -> None:
        self.work = work
        self.deadline = deadline
        self.queued = queued
        self.share = share
        self.began: float | None = None
        "Time at which the device first worked on it, by the same clock."

    @property
    def begun(self) -> bool:
        """True once the device has worked on it."""
        return self.began is not None

    def begin(self, now: float) -> None:
        """Note that the device takes it up; called once."""
        self.began = now

    @property
    @abstractmethod
    def abandoned(self) -> bool:
        """True when nobody waits for it any more."""

    @abstractmethod
    def answer(self, outcome: Result | GradMemError) -> None:
        """Deliver the outcome, once."""

    @abstractmethod
    def notify(self, event: Event) -> None:
        """Deliver an event on the way to the outcome."""


class Scheduler:
    """Shares a device among jobs, one turn at a time.

    Every job that is added is answered once, unless it is abandoned.

    Args:
        device: The device.
        limits: Limits of a batch.
        observer: Observes the turns.
        pace: Observes the time that work takes.
        clock: A clock in seconds, for deadlines, the observer and the pace.
    """

    def __init__(
        self,
        device: Device,
        limits: BatchLimits,
        observer: WorkObserver,
        *,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._device = device
        self._limits = limits
        self._observer = observer
        self._clock = clock
        self._stopwatch = Stopwatch(pace or Pace())
        self._writes: dict[OngoingWrite, Job] = {}
        self._reads: deque[Job] = deque()
        self._reading: dict[OngoingRead, Job] = {}
        self._write_shares = FairShares[OngoingWrite](
            lambda write: self._writes[write].share, lambda write: write.work.step_cost
        )
        self._read_shares = FairShares[Job](
            lambda job: job.share, lambda job: _read_work(job).tokens
        )
        self._read_turns = 0

    @property
    def busy(self) -> bool:
        """True while there is work."""
        return bool(self._writes or self._reads or self._reading)

    @property
    def waiting(self) -> int:
        """Jobs that have not begun."""
        return len(self._reads) + sum(not job.begun for job in self._writes.values())

    def add(self, job: Job) -> None:
        """Queue a job."""
        if isinstance(job.work, WriteWork):
            self._writes[OngoingWrite(job.work)] = job
        else:
            self._reads.append(job)

    def turn(self) -> None:
        """Give the device one piece of work.

        Raises:
            Exception: The device is lost; `abandon` answers the remaining jobs.
        """
        self._drop_unwanted()
        now = self._clock()
        self._stopwatch.run("write", bool(self._writes), now)
        self._stopwatch.run("read", bool(self._reads or self._reading), now)
        if joining := self._select_reads():
            self._begin_reads(joining)
        if self._reading:
            self._read_step()
        elif self._writes:
            self._write_step()

    def abandon(self, error: GradMemError) -> None:
        """Answer every remaining job with an error."""
        remaining = [*self._writes.values(), *self._reading.values(), *self._reads]
        for waiting in (self._writes, self._reads, self._reading):
            waiting.clear()
        for job in remaining:
            job.answer(error)

    def _drop_unwanted(self) -> None:
        """Drop abandoned jobs, and answer those that have expired."""
        now = self._clock()
        self._reads = deque(job for job in self._reads if self._is_wanted(job, now))
        for write, job in list(self._writes.items()):
            if not self._is_wanted(job, now):
                del self._writes[write]
        for read, job in list(self._reading.items()):
            if not self._is_wanted(job, now):
                del self._reading[read]
                self._device.drop([read])

    def _is_wanted(self, job: Job, now: float) -> bool:
        if job.abandoned:
            self._observer.count_cancelled()
            return False
        if now >= job.deadline:
            self._observer.count_expired()
            job.answer(DeadlineError("the request timed out before its work was done"))
            return False
        return True

    def _select_reads(self) -> list[Job]:
        """Return the READ jobs that begin now: the first, and those of its checkpoint that fit."""
        if not self._reads:
            return []
        if self._read_turns >= BURST and self._writes:
            return []
        order = list(self._read_shares.order(self._reads))
        checkpoint = order[0].work.checkpoint
        room = self._limits.batch_queries - sum(read.work.answers for read in self._reading)
        joining: list[Job] = []
        for job in order:
            if job.work.checkpoint is not checkpoint:
                continue
            answers = _read_work(job).answers
            if answers > room and (joining or self._reading):
                break
            joining.append(job)
            room -= answers
        return joining

    def _begin_reads(self, jobs: list[Job]) -> None:
        chosen = set(map(id, jobs))
        self._reads = deque(job for job in self._reads if id(job) not in chosen)
        ongoing = {OngoingRead(_read_work(job)): job for job in jobs}
        self._read_shares.charge(jobs)
        self._observe_begin(jobs)
        self._reading |= ongoing
        errors = self._run_isolated(list(ongoing), self._device.begin)
        for read, error in errors.items():
            self._finish_read(read, error)

    def _read_step(self) -> None:
        """Make a token for every query of a checkpoint's batch; checkpoints take turns."""
        self._read_turns += 1
        checkpoint = next(iter(self._reading)).checkpoint
        batch = [read for read in self._reading if read.checkpoint is checkpoint]
        started = self._clock()
        try:
            chosen = self._device.read_step(batch)
        except FATAL:
            raise
        except Exception as error:  # any error at all: each starts over, apart from the others
            log_failure(logger, "a READ batch", error)
            self._device.drop(batch)
            self._read_apart(batch)
            return
        self._observer.observe_token(len(chosen), self._clock() - started)
        for read, event in chosen:
            self._reading[read].notify(event)
        answers = sum(read.work.answers for read in batch if read.done)
        self._stopwatch.observe("read", checkpoint.name, answers, self._clock())
        for read in batch:
            if read.done:
                self._finish_read(read, _answers(read))
            else:  # to the end of the line, so that the next checkpoint has its turn
                self._reading[read] = self._reading.pop(read)

    def _read_apart(self, batch: list[OngoingRead]) -> None:
        errors = self._run_isolated(batch, self._device.read)
        for read in batch:
            self._finish_read(read, errors.get(read) or _answers(read))

    def _finish_read(self, read: OngoingRead, outcome: Result | GradMemError) -> None:
        self._reading.pop(read).answer(outcome)

    def _write_step(self) -> None:
        self._read_turns = 0
        batch = self._select_writes()
        self._write_shares.charge(batch)
        self._observe_begin([self._writes[write] for write in batch])
        outcomes: dict[OngoingWrite, Result | GradMemError | None] = {}

        def step(part: Sequence[OngoingWrite]) -> None:
            started = self._clock()
            part_outcomes = self._device.write_step(part)
            lengths = [write.work.tokens for write in part]
            self._observer.observe_gradient_step(lengths, self._clock() - started)
            outcomes.update(zip(part, part_outcomes, strict=True))

        steps_before = {write: len(write.losses) for write in batch}
        outcomes |= self._run_isolated(batch, step)
        tokens = sum(write.work.tokens for write in batch)
        self._stopwatch.observe("write", batch[0].checkpoint.name, tokens, self._clock())
        for write in batch:
            outcome = outcomes[write]
            losses = outcome.losses if isinstance(outcome, WrittenPage) else write.losses
            steps = steps_before[write] + 1
            if len(losses) >= steps:
                event = StepMade(steps, losses[steps - 1], write.work.page)
                self._writes[write].notify(event)
            if outcome is not None:
                self._writes.pop(write).answer(outcome)

    def _select_writes(self) -> list[OngoingWrite]:
        """Return the pages of the next gradient step: the first, and those that fit beside it."""
        room = _Room(self._limits)
        chosen: list[OngoingWrite] = []
        for write in self._write_shares.order(self._writes):
            if room.fits(write.work):
                room.add(write.work)
                chosen.append(write)
        return chosen

    def _run_isolated(
        self, items: list[Item], run: Callable[[Sequence[Item]], object]
    ) -> dict[Item, GradMemError]:
        """Run a batch so that each item fails alone; return the errors of those that failed.

        A batch that exceeds the device's memory is halved once; any other is repeated one by one.
        """
        error = _catch(items, run)
        if error is None:
            return {}
        if len(items) == 1:
            return {items[0]: _translate(error)}
        size = (len(items) + 1) // 2 if isinstance(error, torch.OutOfMemoryError) else 1
        errors: dict[Item, GradMemError] = {}
        for start in range(0, len(items), size):
            part = items[start : start + size]
            if error := _catch(part, run):
                errors |= dict.fromkeys(part, _translate(error))
        return errors

    def _observe_begin(self, jobs: Sequence[Job]) -> None:
        now = self._clock()
        for job in jobs:
            if not job.begun:
                self._observer.observe_queue(job.work.operation, now - job.queued)
                job.begin(now)


def _catch(items: Sequence[Item], run: Callable[[Sequence[Item]], object]) -> Exception | None:
    """Run a batch and return the error that it raised, unless that one ends the engine."""
    try:
        run(items)
    except FATAL:
        raise
    except Exception as error:  # any error at all concerns only this batch
        return error
    return None


def _translate(error: Exception) -> GradMemError:
    if isinstance(error, GradMemError):
        return error
    translation: GradMemError
    if isinstance(error, torch.OutOfMemoryError):
        translation = OutOfMemoryError("the device ran out of memory for the batch; try again")
    else:
        log_failure(logger, "a batch", error)
        translation = DeviceError("the device failed while processing the request")
    translation.__cause__ = error
    return translation


def _read_work(job: Job) -> ReadWork:
    assert isinstance(job.work, ReadWork)
    return job.work


def _answers(read: OngoingRead) -> Result:
    return [read.answers[query] for query in range(len(read.work.queries))]
