"""A device without a model, a clock that only the test moves, and jobs that note their answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from gradmem_core.errors import GradMemError
from gradmem_core.reading.answers import Answer
from gradmem_core.writing.compression import WrittenPage
from service.engine.device import Reading, WriteOutcome, Writing
from service.engine.scheduler import Job
from service.engine.work import Event, Result, TokenChosen, Work, WriteWork

NEVER = 1e9
"A deadline."


class Clock:
    """Seconds, as the test has it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turn_began = 0.0

    def __call__(self) -> float:
        return self.now


class Seen(Job):
    """A job that notes its answers."""

    def __init__(self, work: Work, *, deadline: float = NEVER, queued: float = 0.0) -> None:
        super().__init__(work, deadline=deadline, queued=queued)
        self.left = False
        self.outcomes: list[Result | GradMemError] = []
        self.events: list[Event] = []

    @property
    def gone(self) -> bool:
        return self.left

    def answer(self, outcome: Result | GradMemError) -> None:
        self.outcomes.append(outcome)

    def tell(self, event: Event) -> None:
        self.events.append(event)


@dataclass
class FakeDevice:
    """Gives every work a result that only it can have; fails for poisoned works and full batches.

    Raises what `faults` has for the number of a call.
    """

    clock: Clock
    poisoned: dict[int, Exception] = field(default_factory=dict)
    room: int = 10_000
    faults: dict[int, Exception] = field(default_factory=dict)
    trace: list[tuple[str, list[int], float]] = field(default_factory=list)
    decoding: list[Reading] = field(default_factory=list)

    def write_step(self, writes: Sequence[Writing]) -> list[WriteOutcome]:
        self._enter("write", writes)
        outcomes: list[WriteOutcome] = []
        for writing in writes:
            steps = writing.work.steps
            assert isinstance(steps, int)
            writing.losses.append(float(steps - len(writing.losses)))
            done = len(writing.losses) == steps
            memory = torch.tensor([[float(identity(writing))]])
            outcomes.append(WrittenPage(memory, [*writing.losses, 0.0], 1.0) if done else None)
        return outcomes

    def begin(self, reads: Sequence[Reading]) -> None:
        self._enter("begin", reads)
        for reading in reads:
            assert reading not in self.decoding
            reading.numbers[:] = [0] * len(reading.work.queries)
        self.decoding.extend(reads)

    def read_step(self, reads: Sequence[Reading]) -> list[tuple[Reading, TokenChosen]]:
        name = reads[0].checkpoint.name
        in_batch = [r for r in self.decoding if r.checkpoint.name == name]
        assert set(map(id, in_batch)) == set(map(id, reads))
        self._enter("token", reads)
        return [told for reading in reads for told in self._advance(reading)]

    def read(self, reads: Sequence[Reading]) -> None:
        self._enter("apart", reads)
        for reading in reads:
            reading.numbers[:] = [0] * len(reading.work.queries)
            while not reading.done:
                self._advance(reading)

    def drop(self, reads: Sequence[Reading]) -> None:
        self.decoding = [reading for reading in self.decoding if reading not in reads]
        for reading in reads:
            reading.answers.clear()

    def forget(self, memory_id: str) -> None:
        raise AssertionError(memory_id)

    def _advance(self, reading: Reading) -> list[tuple[Reading, TokenChosen]]:
        told = []
        for query, made in enumerate(reading.numbers):
            if query in reading.answers:
                continue
            reading.numbers[query] = made + 1
            told.append((reading, TokenChosen(query, made)))
            if made + 1 == reading.work.sampling[query].max_new_tokens:
                reading.answers[query] = Answer([identity(reading), query], 1.0, "length")
        if reading.done and reading in self.decoding:
            self.decoding.remove(reading)
        return told

    def _enter(self, what: str, items: Sequence[Writing] | Sequence[Reading]) -> None:
        self.trace.append((what, [identity(item) for item in items], self.clock.turn_began))
        self.clock.now += 1
        if fault := self.faults.get(len(self.trace) - 1):
            raise fault
        if len(items) > self.room:
            raise torch.OutOfMemoryError
        for item in items:
            if error := self.poisoned.get(identity(item)):
                raise error


def identity(item: Writing | Reading) -> int:
    work = item.work
    return work.context_ids[0] if isinstance(work, WriteWork) else work.queries[0][0]
