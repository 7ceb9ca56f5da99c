"""Requests of several pages: done side by side within limits, ended by the first error."""

import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest
import torch
from torch import Tensor

from gradmem_core.checkpoints.calibration import Calibration, Logistic
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import DeadlineError, DeviceError
from gradmem_core.reading.answers import CANDIDATES, Answer
from gradmem_core.reading.generation import ROWS, answer_queries
from gradmem_core.reading.sampling import Sampling
from gradmem_core.writing.compression import WrittenPage
from gradmem_core.writing.descent import write
from service.engine import (
    AdmissionLimits,
    BatchLimits,
    Engine,
    StepMade,
    TokenChosen,
    TorchDevice,
    list_reads,
    list_writes,
)
from service.engine.device import OngoingRead, OngoingWrite, WriteOutcome
from tests.service.engines import engine_on

pytestmark = pytest.mark.anyio

LIMITS = BatchLimits(batch_tokens=1000, batch_queries=1000)
PLENTY = AdmissionLimits(tokens=10_000, seconds=30)
PAGE = "!aB:7x!|"
GREEDY = Sampling(max_new_tokens=4)
CALIBRATION = Calibration(
    page=Logistic(bias=0.0, query=1.0, absent=-0.1),
    answer=Logistic(bias=0.0, answer=1.0, query=0.1, pages=-0.1),
    absence=Logistic(bias=0.0),
    min_confidence=0.2,
)


class Watched(TorchDevice):
    """The real device, which records its work, waits at a gate and fails for a token."""

    def __init__(self, *, bad: int | None = None) -> None:
        super().__init__(prefix_bytes=2**20)
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.written: list[list[list[int]]] = []
        self.joined: list[int] = []
        self.bad = bad

    def write_step(self, writes: Sequence[OngoingWrite]) -> list[WriteOutcome]:
        self.entered.set()
        assert self.gate.wait(timeout=30)
        self.written.append([writing.work.context_ids for writing in writes])
        if any(self.bad in ids for ids in self.written[-1]):
            raise RuntimeError
        return super().write_step(writes)

    def begin(self, reads: Sequence[OngoingRead]) -> None:
        self.joined += [reading.work.answers for reading in reads]
        super().begin(reads)


@asynccontextmanager
async def started(device: Watched, admission: AdmissionLimits = PLENTY) -> AsyncIterator[Engine]:
    engine = engine_on(device, LIMITS, admission, threads=1)
    engine.start()
    try:
        yield engine
    finally:
        device.gate.set()
        engine.stop()


def make_pages(tiny: Checkpoint, count: int) -> list[list[int]]:
    """Return different pages of equal length."""
    return [tiny.tokenizer.encode(f"!{chr(97 + number)}B:7x!|") for number in range(count)]


async def write_request(
    engine: Engine,
    pages: Sequence[list[int]],
    tiny: Checkpoint,
    seconds: float | None = None,
    *,
    steps: int = 2,
) -> list[WrittenPage]:
    """Write pages as a request does."""
    works = list_writes(tiny, pages, steps)
    with engine.admit(works, share="a client", deadline=engine.deadline(seconds)) as permit:
        return await engine.write_pages(tiny, pages, steps, permit=permit)


def make_memories(count: int) -> Tensor:
    return torch.randn(count, 4, 32, generator=torch.Generator().manual_seed(0))


def make_queries(tiny: Checkpoint, count: int) -> list[list[int]]:
    return [tiny.tokenizer.encode(f"?!{chr(97 + number % 26)}") for number in range(count)]


def assert_equal_answers(answers: Sequence[Answer], expected: Sequence[Answer]) -> None:
    for answer, wanted in zip(answers, expected, strict=True):
        assert (answer.tokens, answer.page, answer.finish_reason) == (
            wanted.tokens,
            wanted.page,
            wanted.finish_reason,
        )
        assert answer.confidence == pytest.approx(wanted.confidence, abs=1e-5)


async def test_pages_are_written_as_alone_and_in_order(tiny: Checkpoint) -> None:
    device = Watched()
    device.gate.set()
    events: list[StepMade] = []
    async with started(device) as engine:
        written = await engine.write_pages(tiny, make_pages(tiny, 5), 2, listener=events.append)
    for number, (ids, page) in enumerate(zip(make_pages(tiny, 5), written, strict=True)):
        alone = write(tiny.model, torch.tensor([ids]), torch.tensor([8]), 2, create_graph=False)
        torch.testing.assert_close(page.memory, alone.memory[0], rtol=1e-5, atol=1e-5)
        steps = [(event.step, event.loss) for event in events if event.page == number]
        assert steps == [(1, page.losses[0]), (2, page.losses[1])]


async def test_a_request_counts_for_a_part_of_the_room_however_large_it_is(
    tiny: Checkpoint,
) -> None:
    async with started(Watched(), AdmissionLimits(tokens=80, seconds=30)) as engine:
        for pages, tokens in ((5, 20), (2, 16)):
            works = list_writes(tiny, make_pages(tiny, pages), 1)
            with engine.admit(works, share="a", deadline=engine.deadline(None)):
                assert engine._admission.tokens == tokens
        assert engine._admission.tokens == 0


async def test_the_first_page_that_fails_ends_the_others(tiny: Checkpoint) -> None:
    wanted = make_pages(tiny, 4)

    class Pausing(Watched):
        """Waits once the last page was written alone, so that the failure is known by then."""

        def write_step(self, writes: Sequence[OngoingWrite]) -> list[WriteOutcome]:
            outcomes = super().write_step(writes)
            if self.written[-1] == [wanted[3]]:
                self.gate.clear()
            return outcomes

    device = Pausing(bad=wanted[1][1])
    device.gate.set()
    async with started(device) as engine:
        with pytest.raises(DeviceError):
            await write_request(engine, wanted, tiny, steps=5)
        assert engine._admission.tokens == 0
        device.gate.set()
        assert len(await engine.write_pages(tiny, wanted[:1], 1)) == 1
    # Together, then alone, and at most the step that had begun when the failure was known.
    assert 2 <= [wanted[3] in batch for batch in device.written].count(True) <= 3


async def test_a_cancelled_request_ends_all_its_pages(tiny: Checkpoint) -> None:
    device = Watched()
    other = tiny.tokenizer.encode(PAGE + PAGE)
    async with started(device) as engine:
        async with anyio.create_task_group() as group:
            group.start_soon(write_request, engine, make_pages(tiny, 3), tiny)
            await anyio.to_thread.run_sync(device.entered.wait)
            group.cancel_scope.cancel()
        assert engine._admission.tokens == 0
        device.gate.set()
        await engine.write_pages(tiny, [other], 1)
    assert len(device.written) == 2
    assert device.written[1] == [other]


@pytest.mark.parametrize(("seconds", "most"), [(0.05, 30), (None, 0.05), (99.0, 0.05)])
async def test_a_request_that_times_out_is_answered_once(
    tiny: Checkpoint, seconds: float | None, most: float
) -> None:
    device = Watched()
    async with started(device, AdmissionLimits(tokens=1000, seconds=most)) as engine:
        with pytest.raises(DeadlineError, match=r"0\.05 s"):
            await write_request(engine, make_pages(tiny, 3), tiny, seconds)
        assert engine._admission.tokens == 0
        device.gate.set()
    assert device.written == [make_pages(tiny, 3)]


@pytest.mark.parametrize("calibration", [None, CALIBRATION], ids=["plain", "calibrated"])
@pytest.mark.parametrize(("page_count", "query_count"), [(1, 70), (5, 30), (70, 2)])
async def test_pages_are_read_as_the_core_reads_them(
    tiny: Checkpoint, page_count: int, query_count: int, calibration: Calibration | None
) -> None:
    device = Watched()
    tiny = replace(tiny, calibration=calibration)
    memory, wanted, sampling = (
        make_memories(page_count),
        make_queries(tiny, query_count),
        [GREEDY] * query_count,
    )
    events: list[TokenChosen] = []
    ids = [("a memory", str(page)) for page in range(page_count)]
    async with started(device) as engine:
        works = list_reads(tiny, memory, wanted, sampling, page_keys=ids)
        answers = await engine.answer(works, listener=events.append)
    assert_equal_answers(answers, answer_queries(tiny, memory, wanted, sampling))
    assert len({answer.page for answer in answers}) > 1 or page_count == 1
    assert sum(device.joined) == page_count * query_count
    assert max(device.joined) <= max(ROWS, page_count)
    read_on = min(page_count, CANDIDATES) if calibration else page_count
    assert len({(event.query, event.page) for event in events}) == query_count * read_on
    for number, answer in enumerate(answers):
        tokens = [e.token for e in events if (e.query, e.page) == (number, answer.page)]
        assert tokens[: len(answer.tokens)] == answer.tokens


async def test_of_documents_about_as_confident_the_later_answers(tiny: Checkpoint) -> None:
    memory = make_memories(1).expand(3, -1, -1)
    wanted = make_queries(tiny, 2)
    async with started(Watched()) as engine:
        together = await engine.read_pages(tiny, memory, None, wanted, [GREEDY] * 2)
        several = await engine.answer(
            list_reads(tiny, memory, wanted, [GREEDY] * 2, documents=["a", "b", "c"])
        )
    assert [answer.page for answer in several] == [2, 2]
    assert_equal_answers(
        several, answer_queries(tiny, memory, wanted, [GREEDY] * 2, documents=["a", "b", "c"])
    )
    assert [answer.tokens for answer in together] == [answer.tokens for answer in several]
