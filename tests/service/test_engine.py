"""The engine with a tiny model: work that is concurrent, cancelled, late, failing or stopped."""

import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest
import torch

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import (
    DeadlineError,
    DeviceError,
    EngineStoppedError,
    GradMemError,
    NonFiniteLossError,
    OverloadedError,
)
from gradmem_core.model import MemoryModel
from gradmem_core.reading.answers import Answer, ReadingRules
from gradmem_core.reading.cache import Prefix, prefill
from gradmem_core.reading.generation import generate
from gradmem_core.reading.sampling import Sampling
from gradmem_core.writing.compression import Steps, WrittenPage
from gradmem_core.writing.descent import write
from gradmem_core.writing.stopping import write_until_settled
from service.engine import (
    AdmissionLimits,
    BatchLimits,
    DeviceExecutor,
    Engine,
    PageKey,
    ReadWork,
    StepMade,
    TokenChosen,
    TorchDevice,
    WriteWork,
)
from service.engine.device import OngoingRead, OngoingWrite, PrefixCache, WriteOutcome
from service.models import Models
from service.telemetry import Telemetry
from tests.service.engines import engine_on

pytestmark = pytest.mark.anyio
LIMITS = BatchLimits(batch_tokens=200, batch_queries=16)
ADMISSION = AdmissionLimits(tokens=1000, seconds=30)
DOCUMENTS = ["!aB:7x!|", "!kk:Q3!!0z:mN!|", "!Wd:u8!!5p:Rt!!Cy:9e!|", "!a:b!|"]
QUERIES = ["?!kk:", "?!a:", "?!"]


class Gated(TorchDevice):
    """The real device behind a gate, which records its WRITE batches and fails for a length."""

    def __init__(self, *, bad: int = 0, error: BaseException | None = None) -> None:
        super().__init__(prefix_bytes=2**20)
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.batches: list[list[int]] = []
        self.bad = bad
        self.error = error

    def write_step(self, writes: Sequence[OngoingWrite]) -> list[WriteOutcome]:
        self.entered.set()
        assert self.gate.wait(timeout=30)
        self.batches.append([writing.work.tokens for writing in writes])
        if self.error and self.bad in self.batches[-1]:
            raise self.error
        return super().write_step(writes)


@asynccontextmanager
async def started(
    device: TorchDevice, admission: AdmissionLimits = ADMISSION
) -> AsyncIterator[Engine]:
    engine = engine_on(device, LIMITS, admission, threads=1)
    engine.start()
    try:
        yield engine
    finally:
        if isinstance(device, Gated):
            device.gate.set()
        engine.stop()


def a_write(tiny: Checkpoint, document: str, steps: Steps = 2) -> WriteWork:
    return WriteWork(tiny, tiny.tokenizer.encode(document), steps)


def a_read(tiny: Checkpoint, memory: torch.Tensor, page: PageKey | None = None) -> ReadWork:
    """Return queries to a memory `(m, d)` of one page."""
    queries = [tiny.tokenizer.encode(text) for text in QUERIES]
    sampling = [Sampling(4), Sampling(8, temperature=1.0, seed=3), Sampling(2)]
    page_keys = None if page is None else [page]
    return ReadWork(tiny, memory[None], queries, sampling, [None], page_keys)


async def write_page(
    engine: Engine, work: WriteWork, *, seconds: float | None = None
) -> WrittenPage:
    with engine.admit([work], share="a client", deadline=engine.deadline(seconds)) as permit:
        (page,) = await engine.write_pages(
            work.checkpoint, [work.context_ids], work.steps, permit=permit
        )
    return page


async def read_page(engine: Engine, work: ReadWork) -> list[Answer]:
    return await engine.read_pages(
        work.checkpoint, work.memory, work.page_keys, work.queries, work.sampling
    )


def write_alone(work: WriteWork) -> tuple[torch.Tensor, list[float]]:
    ids, lengths = torch.tensor([work.context_ids]), torch.tensor([len(work.context_ids)])
    assert isinstance(work.steps, int)
    written = write(work.checkpoint.model, ids, lengths, work.steps, create_graph=False)
    return written.memory[0], written.losses[0].tolist()


def read_alone(work: ReadWork) -> list[Answer]:
    return [
        generate(
            work.checkpoint.model,
            work.memory,
            [query],
            [0],
            [sampling],
            rules=ReadingRules.from_checkpoint(work.checkpoint),
        )[0]
        for query, sampling in zip(work.queries, work.sampling, strict=True)
    ]


async def record_outcome(engine: Engine, work: WriteWork, into: list[object], place: int) -> None:
    try:
        into[place] = await write_page(engine, work)
    except GradMemError as error:
        into[place] = error


async def write_all(engine: Engine, works: Sequence[WriteWork], device: Gated) -> list[object]:
    """Queue one work first, then the rest during its first step; return the outcomes in order."""
    outcomes: list[object] = [None] * len(works)
    async with anyio.create_task_group() as group:
        group.start_soon(record_outcome, engine, works[0], outcomes, 0)
        await anyio.to_thread.run_sync(device.entered.wait)
        for place, work in enumerate(works[1:], start=1):
            group.start_soon(record_outcome, engine, work, outcomes, place)
        await anyio.wait_all_tasks_blocked()
        device.gate.set()
    return outcomes


async def test_concurrent_work_has_the_results_of_work_alone(tiny: Checkpoint) -> None:
    writes = [a_write(tiny, text, steps) for text in DOCUMENTS for steps in (1, 3, 8)]
    memories = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(0))
    reads = [a_read(tiny, memories[i % 2], ("a memory", str(i % 2))) for i in range(4)]
    made: dict[int, WrittenPage] = {}
    answers: dict[int, list[Answer]] = {}

    async def note_write(place: int) -> None:
        made[place] = await write_page(engine, writes[place])

    async def note_read(place: int) -> None:
        await anyio.sleep(0.01 * place)
        answers[place] = await read_page(engine, reads[place])

    device = TorchDevice(prefix_bytes=2**20)
    async with started(device) as engine, anyio.create_task_group() as group:
        for place in range(len(writes)):
            group.start_soon(note_write, place)
        for place in range(len(reads)):
            group.start_soon(note_read, place)
    for place, work in enumerate(writes):
        memory, losses = write_alone(work)
        torch.testing.assert_close(made[place].memory, memory, rtol=1e-5, atol=1e-5)
        assert made[place].losses == pytest.approx(losses, rel=1e-5)
        assert made[place].steps == work.steps
    for place, read_work in enumerate(reads):
        for result, expected in zip(answers[place], read_alone(read_work), strict=True):
            assert result.tokens == expected.tokens
            assert result.finish_reason == expected.finish_reason
            assert result.confidence == pytest.approx(expected.confidence, abs=1e-5)


async def test_auto_stops_where_the_core_does(tiny: Checkpoint) -> None:
    works = [a_write(tiny, text, "auto") for text in DOCUMENTS]
    outcomes: list[object] = [None] * len(works)
    async with started(TorchDevice(prefix_bytes=0)) as engine, anyio.create_task_group() as group:
        for place, work in enumerate(works):
            group.start_soon(record_outcome, engine, work, outcomes, place)
    for work, result in zip(works, outcomes, strict=True):
        assert isinstance(result, WrittenPage)
        ids, lengths = torch.tensor([work.context_ids]), torch.tensor([len(work.context_ids)])
        expected = write_until_settled(tiny.model, ids, lengths, tiny.model.config.max_write_steps)
        torch.testing.assert_close(result.memory, expected.memory[0], rtol=1e-5, atol=1e-5)
        assert result.losses[-1] == pytest.approx(float(expected.losses[0]), rel=1e-4)
        assert result.steps in (int(expected.steps[0]), int(expected.steps[0]) - 1)


async def test_documents_share_gradient_steps_whatever_their_steps(tiny: Checkpoint) -> None:
    device = Gated()
    works = [a_write(tiny, DOCUMENTS[0], steps) for steps in (2, 1, 3, 2)]
    async with started(device) as engine:
        await write_all(engine, works, device)
    assert [len(batch) for batch in device.batches] == [1, 4, 2, 1]


async def test_listeners_get_events_in_order_before_the_result(tiny: Checkpoint) -> None:
    steps: list[StepMade] = []
    tokens: list[TokenChosen] = []
    async with started(TorchDevice(prefix_bytes=0)) as engine:
        page = tiny.tokenizer.encode(DOCUMENTS[1])
        (made,) = await engine.write_pages(tiny, [page], 3, listener=steps.append)
        assert steps == [StepMade(i + 1, loss) for i, loss in enumerate(made.losses[:-1])]
        work = a_read(tiny, made.memory)
        answers = await engine.answer([work], listener=tokens.append)
    for query, answer in enumerate(answers):
        chosen = [e.token for e in tokens if e.query == query]
        assert chosen[: len(answer.tokens)] == answer.tokens
        assert len(chosen) == len(answer.tokens) + (answer.finish_reason == "stop")


async def test_a_page_that_diverges_fails_alone(tiny: Checkpoint) -> None:
    works = [a_write(tiny, text, 8) for text in DOCUMENTS]

    class Diverging(Gated):
        def write_step(self, writes: Sequence[OngoingWrite]) -> list[WriteOutcome]:
            for writing in writes:
                if writing.work.context_ids == works[1].context_ids and writing.memory is not None:
                    writing.memory = writing.memory * torch.inf
            return super().write_step(writes)

    device = Diverging()
    async with started(device) as engine:
        outcomes = await write_all(engine, works, device)
    failed = [isinstance(result, NonFiniteLossError) for result in outcomes]
    assert failed == [False, True, False, False]


async def test_errors_of_the_device_are_translated_and_the_engine_goes_on(
    tiny: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    device = Gated(bad=len(DOCUMENTS[1]), error=RuntimeError("document text"))
    device.gate.set()
    async with started(device) as engine:
        with pytest.raises(DeviceError):
            await write_page(engine, a_write(tiny, DOCUMENTS[1]))
        assert isinstance(await write_page(engine, a_write(tiny, DOCUMENTS[0])), WrittenPage)
    assert "document text" not in caplog.text


async def test_a_full_engine_refuses_until_it_has_room(tiny: Checkpoint) -> None:
    device = Gated()
    most = 8 * len(DOCUMENTS[0])
    async with started(device, AdmissionLimits(tokens=most, seconds=30)) as engine:
        # A client takes half of what WRITE may have, so that others find room.
        outcomes = await write_all(engine, [a_write(tiny, DOCUMENTS[0])] * 6, device)
        assert isinstance(await write_page(engine, a_write(tiny, DOCUMENTS[2])), WrittenPage)
    refused = [result for result in outcomes if isinstance(result, OverloadedError)]
    assert len(refused) == 3
    assert {error.limit for error in refused} == {most}


async def test_a_request_that_times_out_is_answered_and_never_begun(tiny: Checkpoint) -> None:
    device = Gated()
    first: list[object] = [None]
    async with started(device) as engine, anyio.create_task_group() as group:
        group.start_soon(record_outcome, engine, a_write(tiny, DOCUMENTS[0]), first, 0)
        await anyio.to_thread.run_sync(device.entered.wait)
        page = tiny.tokenizer.encode(DOCUMENTS[1])
        with pytest.raises(DeadlineError, match=r"within 0\.05 s"):
            await write_page(engine, WriteWork(tiny, page, 2), seconds=0.05)
        device.gate.set()
    assert isinstance(first[0], WrittenPage)
    assert all(batch == [len(DOCUMENTS[0])] for batch in device.batches)


async def test_a_cancelled_request_frees_its_place_between_steps(tiny: Checkpoint) -> None:
    device = Gated()
    async with started(device) as engine:
        with anyio.move_on_after(0.05):
            await write_page(engine, a_write(tiny, DOCUMENTS[1], 8))
        device.gate.set()
        await write_page(engine, a_write(tiny, DOCUMENTS[0], 2))
    assert device.batches == [[len(DOCUMENTS[1])], *[[len(DOCUMENTS[0])]] * 2]


async def test_stopping_answers_every_request(tiny: Checkpoint) -> None:
    device = Gated()
    outcomes: list[object] = [None] * 3
    async with started(device) as engine, anyio.create_task_group() as group:
        group.start_soon(record_outcome, engine, a_write(tiny, DOCUMENTS[0], 1), outcomes, 0)
        await anyio.to_thread.run_sync(device.entered.wait)
        group.start_soon(record_outcome, engine, a_write(tiny, DOCUMENTS[1]), outcomes, 1)
        await anyio.wait_all_tasks_blocked()
        stopper = threading.Thread(target=engine.stop)
        stopper.start()
        await anyio.sleep(0.05)
        group.start_soon(record_outcome, engine, a_write(tiny, DOCUMENTS[2]), outcomes, 2)
        device.gate.set()
        await anyio.to_thread.run_sync(stopper.join)
    assert isinstance(outcomes[0], WrittenPage)
    assert isinstance(outcomes[1], EngineStoppedError)
    assert isinstance(outcomes[2], EngineStoppedError)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("error", [SystemExit(), torch.AcceleratorError("device lost")])
async def test_a_lost_device_ends_the_engine_with_every_request_answered(
    tiny: Checkpoint, error: BaseException
) -> None:
    device = Gated(bad=len(DOCUMENTS[0]), error=error)
    executor = DeviceExecutor(device, LIMITS, Telemetry())
    engine = Engine(executor, ADMISSION, Telemetry())
    failed = threading.Event()
    executor.on_failure = failed.set
    engine.start()
    outcomes = await write_all(engine, [a_write(tiny, text) for text in DOCUMENTS], device)
    assert all(isinstance(outcome, EngineStoppedError) for outcome in outcomes)
    assert await anyio.to_thread.run_sync(failed.wait, 10)
    engine.stop()
    assert not engine.alive


def test_prefixes_are_cached_until_others_were_read_more_recently(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    memory = torch.zeros(4, 32)
    size = 4 * tiny.model.backbone.cache_elements_per_token * 4  # float32, four vectors
    cache = PrefixCache(2 * size)

    def counted(model: MemoryModel, memories: torch.Tensor) -> list[Prefix]:
        computed.append(len(memories))
        return prefill(model, memories)

    monkeypatch.setattr("service.engine.device.prefill", counted)

    def ask(*ids: str | None) -> list[object]:
        pages = [None if name is None else (name, "a page") for name in ids]
        prefixes = cache.fetch([OngoingRead(a_read(tiny, memory, page)) for page in pages])
        return [prefix for (prefix,) in prefixes]

    first = ask("a", "b", "a")
    assert first[0] is first[2]
    assert computed == [2]
    ask("a")
    ask("c")  # removes b, which was read before a
    ask("a")
    assert computed == [2, 1]
    assert cache.bytes == 2 * size
    ask("b")
    assert computed == [2, 1, 1]
    cache.forget("b")
    assert cache.bytes == size
    ask(None, None)
    assert computed == [2, 1, 1, 2]
    assert cache.bytes == size


async def test_a_transformer_in_bfloat16_uses_float32_memories() -> None:
    checkpoint = Models.load(["kv-16"], device="cpu", precision="bfloat16").get(None)
    task, tokenizer = checkpoint.task, checkpoint.tokenizer
    query = tokenizer.encode(task.example_query)
    write_work = WriteWork(checkpoint, tokenizer.encode(task.example_document), 5)
    async with started(TorchDevice(prefix_bytes=2**20)) as engine:
        written = await write_page(engine, write_work)
        (answer,) = await engine.read_pages(
            checkpoint, written.memory[None], None, [query], [Sampling(4)]
        )
    assert tokenizer.decode(answer.tokens) == task.example_answer
    assert written.memory.dtype == torch.float32
    checkpoint.model.backbone.autocast = None
    exact, _ = write_alone(write_work)
    assert not torch.equal(written.memory, exact)
    assert torch.allclose(written.memory, exact, atol=0.1)
