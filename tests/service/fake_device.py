"""A device without a model, a clock that only the test moves, and jobs that record outcomes."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from gradmem_core.errors import GradMemError
from gradmem_core.reading.answers import Answer
from gradmem_core.writing.compression import TokenLosses, WrittenPage
from service.engine.device import OngoingRead, OngoingWrite, WriteOutcome
from service.engine.scheduler import Job
from service.engine.work import DeviceWork, Event, Result, TokenChosen, WriteWork

NEVER = 1e9
"A deadline that never comes."


class Clock:
    """A clock in seconds that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turn_began = 0.0

    def __call__(self) -> float:
        return self.now


class RecordingJob(Job):
    """A job that records its outcomes and events."""

    def __init__(
        self, work: DeviceWork, *, deadline: float = NEVER, queued: float = 0.0, share: str = ""
    ) -> None:
        super().__init__(work, deadline=deadline, queued=queued, share=share)
        self.left = False
        self.outcomes: list[Result | GradMemError] = []
        self.events: list[Event] = []

    @property
    def abandoned(self) -> bool:
        return self.left

    def answer(self, outcome: Result | GradMemError) -> None:
        self.outcomes.append(outcome)

    def notify(self, event: Event) -> None:
        self.events.append(event)


@dataclass
class FakeDevice:
    """A device that gives each work a result of its own, and fails for poisoned or too many works.

    It also raises an error of the class that `faults` holds for the number of a call. Each error is
    a new one: the traceback of one that is raised again and again grows without end.
    """

    clock: Clock
    poisoned: set[int] = field(default_factory=set)
    room: int = 10_000
    faults: dict[int, type[Exception]] = field(default_factory=dict)
    trace: list[tuple[str, list[int], float]] = field(default_factory=list)
    decoding: list[OngoingRead] = field(default_factory=list)

    def write_step(self, writes: Sequence[OngoingWrite]) -> list[WriteOutcome]:
        self._enter("write", writes)
        outcomes: list[WriteOutcome] = []
        for write in writes:
            steps = write.work.steps
            assert isinstance(steps, int)
            write.losses.append(float(steps - len(write.losses)))
            done = len(write.losses) == steps
            memory = torch.tensor([[float(number_of(write))]])
            page = WrittenPage(memory, [*write.losses, 0.0], 1.0, TokenLosses([], []))
            outcomes.append(page if done else None)
        return outcomes

    def begin(self, reads: Sequence[OngoingRead]) -> None:
        self._enter("begin", reads)
        for read in reads:
            assert read not in self.decoding
            read.numbers[:] = [0] * len(read.work.queries)
        self.decoding.extend(reads)

    def read_step(self, reads: Sequence[OngoingRead]) -> list[tuple[OngoingRead, TokenChosen]]:
        name = reads[0].checkpoint.name
        in_batch = [r for r in self.decoding if r.checkpoint.name == name]
        assert set(map(id, in_batch)) == set(map(id, reads))
        self._enter("token", reads)
        return [token for read in reads for token in self._advance(read)]

    def read(self, reads: Sequence[OngoingRead]) -> None:
        self._enter("apart", reads)
        for read in reads:
            read.numbers[:] = [0] * len(read.work.queries)
            while not read.done:
                self._advance(read)

    def drop(self, reads: Sequence[OngoingRead]) -> None:
        self.decoding = [read for read in self.decoding if read not in reads]
        for read in reads:
            read.answers.clear()

    def forget(self, memory_id: str) -> None:
        raise AssertionError(memory_id)

    def _advance(self, read: OngoingRead) -> list[tuple[OngoingRead, TokenChosen]]:
        tokens = []
        for query, token in enumerate(read.numbers):
            if query in read.answers:
                continue
            read.numbers[query] = token + 1
            tokens.append((read, TokenChosen(query, token, 1.0)))
            if token + 1 == read.work.sampling[query].max_new_tokens:
                read.answers[query] = Answer([number_of(read), query], [1.0, 1.0], 1.0, "length")
        if read.done and read in self.decoding:
            self.decoding.remove(read)
        return tokens

    def _enter(self, call: str, items: Sequence[OngoingWrite] | Sequence[OngoingRead]) -> None:
        self.trace.append((call, [number_of(item) for item in items], self.clock.turn_began))
        self.clock.now += 1
        if fault := self.faults.get(len(self.trace) - 1):
            raise fault("a fault")
        if len(items) > self.room:
            raise torch.OutOfMemoryError
        if any(number_of(item) in self.poisoned for item in items):
            raise RuntimeError("a poisoned work")


def number_of(item: OngoingWrite | OngoingRead) -> int:
    """Return the number of a work, which is its first token."""
    work = item.work
    return work.context_ids[0] if isinstance(work, WriteWork) else work.queries[0][0]
