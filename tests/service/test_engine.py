"""The engine with devices that fail, stall and count."""

import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest
import torch

from gradmem_core.checkpoint import Checkpoint
from gradmem_core.decode import Sampling
from gradmem_core.errors import (
    DeviceError,
    EngineStoppedError,
    GradMemError,
    NonFiniteLossError,
    OutOfMemoryError,
    OverloadedError,
)
from service.engine import Engine, Limits, ReadWork, WriteWork, WrittenMemory
from service.engine.work import Result, Work, run_batch
from service.telemetry import Telemetry

pytestmark = pytest.mark.anyio
LIMITS = Limits(waiting=100, batch_documents=4, batch_queries=8, threads=1)
DOCUMENTS = ["!aB:7x!|", "!kk:Q3!!0z:mN!|", "!Wd:u8!!5p:Rt!!Cy:9e!|", "!a:b!|"]


class Device:
    """Runs batches for real, but waits for `open` first and fails as told.

    Args:
        error: Raised for every batch that holds a document of `bad` tokens.
    """

    def __init__(self, *, bad: int = 0, error: Exception | None = None) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.batches: list[int] = []
        self.bad = bad
        self.error = error

    def __call__(self, works: Sequence[Work]) -> list[Result]:
        self.entered.set()
        assert self.gate.wait(timeout=30)
        self.batches.append(len(works))
        lengths = [len(work.context_ids) for work in works if isinstance(work, WriteWork)]
        if self.error and self.bad in lengths:
            raise self.error
        return run_batch(works)


@asynccontextmanager
async def started(device: Device, limits: Limits = LIMITS) -> AsyncIterator[Engine]:
    engine = Engine(limits, Telemetry(), device)
    engine.start()
    try:
        yield engine
    finally:
        device.gate.set()
        engine.stop()


def work(tiny: Checkpoint, document: str, steps: int = 2) -> WriteWork:
    return WriteWork(tiny, tiny.tokenizer.encode(document), steps)


async def outcome(engine: Engine, item: WriteWork, into: list[object], place: int) -> None:
    try:
        into[place] = await engine.write(item)
    except GradMemError as error:
        into[place] = error


async def write_all(engine: Engine, items: Sequence[WriteWork], device: Device) -> list[object]:
    """Queue one item first, then the rest behind its batch; every outcome in order."""
    outcomes: list[object] = [None] * len(items)
    async with anyio.create_task_group() as group:
        group.start_soon(outcome, engine, items[0], outcomes, 0)
        await anyio.to_thread.run_sync(device.entered.wait)
        for place, item in enumerate(items[1:], start=1):
            group.start_soon(outcome, engine, item, outcomes, place)
        await anyio.wait_all_tasks_blocked()
        device.gate.set()
    return outcomes


async def test_waiting_work_is_batched_and_equals_work_alone(tiny: Checkpoint) -> None:
    device = Device()
    items = [work(tiny, DOCUMENTS[0]), *[work(tiny, document) for document in DOCUMENTS]]
    async with started(device) as engine:
        outcomes = await write_all(engine, items, device)
    assert device.batches == [1, 4]
    for item, result in zip(items, outcomes, strict=True):
        (alone,) = run_batch([item])
        assert isinstance(result, WrittenMemory)
        assert isinstance(alone, WrittenMemory)
        torch.testing.assert_close(result.memory, alone.memory, rtol=1e-5, atol=1e-6)
        assert result.losses == pytest.approx(alone.losses, rel=1e-5)


async def test_batches_hold_one_number_of_steps_and_no_more_than_fit(tiny: Checkpoint) -> None:
    device = Device()
    steps = [1, 2, 3, 2, 3, 2, 2, 2]
    items = [work(tiny, DOCUMENTS[0], steps=count) for count in steps]
    async with started(device) as engine:
        outcomes = await write_all(engine, items, device)
    assert device.batches == [1, 4, 2, 1]
    for count, result in zip(steps, outcomes, strict=True):
        assert isinstance(result, WrittenMemory)
        assert len(result.losses) == count + 1


async def test_one_that_fails_fails_alone(tiny: Checkpoint) -> None:
    bad = len(tiny.tokenizer.encode(DOCUMENTS[1]))
    device = Device(bad=bad, error=NonFiniteLossError("diverged", samples=[1]))
    items = [work(tiny, DOCUMENTS[0]), *[work(tiny, document) for document in DOCUMENTS]]
    async with started(device) as engine:
        outcomes = await write_all(engine, items, device)
    failed = [isinstance(result, NonFiniteLossError) for result in outcomes]
    assert failed == [False, False, True, False, False]


@pytest.mark.parametrize(
    ("error", "translated"),
    [(RuntimeError("document text"), DeviceError), (torch.OutOfMemoryError(), OutOfMemoryError)],
)
async def test_errors_of_the_device_are_translated_and_the_engine_lives(
    tiny: Checkpoint, error: Exception, translated: type, caplog: pytest.LogCaptureFixture
) -> None:
    device = Device(bad=len(DOCUMENTS[1]), error=error)
    device.gate.set()
    async with started(device) as engine:
        with pytest.raises(translated):
            await engine.write(work(tiny, DOCUMENTS[1]))
        assert isinstance(await engine.write(work(tiny, DOCUMENTS[0])), WrittenMemory)
    assert "document text" not in caplog.text


async def test_a_full_queue_refuses(tiny: Checkpoint) -> None:
    device = Device()
    limits = Limits(waiting=2, batch_documents=4, batch_queries=8, threads=1)
    async with started(device, limits) as engine:
        outcomes = await write_all(engine, [work(tiny, DOCUMENTS[0])] * 6, device)
    refused = [result for result in outcomes if isinstance(result, OverloadedError)]
    assert len(refused) == 3
    assert {error.limit for error in refused} == {2}


async def test_whoever_has_left_takes_no_part_in_a_batch(tiny: Checkpoint) -> None:
    device = Device()
    async with started(device) as engine, anyio.create_task_group() as group:
        first: list[object] = [None]
        group.start_soon(outcome, engine, work(tiny, DOCUMENTS[0]), first, 0)
        await anyio.to_thread.run_sync(device.entered.wait)
        with anyio.move_on_after(0.05):
            await engine.write(work(tiny, DOCUMENTS[1]))
        device.gate.set()
    assert device.batches == [1]


async def test_stopping_answers_everyone(tiny: Checkpoint) -> None:
    device = Device()
    outcomes: list[object] = [None] * 3
    async with started(device) as engine, anyio.create_task_group() as group:
        group.start_soon(outcome, engine, work(tiny, DOCUMENTS[0]), outcomes, 0)
        await anyio.to_thread.run_sync(device.entered.wait)
        group.start_soon(outcome, engine, work(tiny, DOCUMENTS[1]), outcomes, 1)
        await anyio.wait_all_tasks_blocked()
        stopper = threading.Thread(target=engine.stop)
        stopper.start()
        await anyio.sleep(0.05)
        group.start_soon(outcome, engine, work(tiny, DOCUMENTS[2]), outcomes, 2)
        device.gate.set()
        await anyio.to_thread.run_sync(stopper.join)
    assert isinstance(outcomes[0], WrittenMemory)
    assert isinstance(outcomes[1], EngineStoppedError)
    assert isinstance(outcomes[2], EngineStoppedError)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_the_batch_in_which_the_thread_ends_is_answered(tiny: Checkpoint) -> None:
    def run(_: Sequence[Work]) -> list[Result]:
        raise SystemExit

    engine = Engine(LIMITS, Telemetry(), run)
    engine.start()
    with pytest.raises(EngineStoppedError):
        await engine.write(work(tiny, DOCUMENTS[0]))
    engine.stop()
    assert not engine.alive


async def test_reads_of_different_memories_share_a_batch(tiny: Checkpoint) -> None:
    works = []
    for document in DOCUMENTS[:3]:
        (written,) = run_batch([work(tiny, document)])
        assert isinstance(written, WrittenMemory)
        queries = [tiny.tokenizer.encode(text) for text in ("?!kk:", "?!a:")]
        works.append(ReadWork(tiny, written.memory, queries, [Sampling(4)] * 2))
    together = run_batch(works)
    alone = [run_batch([item])[0] for item in works]
    for batched, single in zip(together, alone, strict=True):
        assert isinstance(batched, list)
        assert isinstance(single, list)
        assert [a.tokens for a in batched] == [a.tokens for a in single]
