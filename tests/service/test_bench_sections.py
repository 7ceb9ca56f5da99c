"""The benchmark's sections on a tiny checkpoint: what they compute and count, not how fast."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner, Result

from benchmarks.serving import context, device, loaded, overload
from benchmarks.serving.context import ANSWER_TOKENS, InPlace, cached, contexts, prefilled, reread
from benchmarks.serving.device import Products, operations, unrolled_write
from benchmarks.serving.documents import documents
from benchmarks.serving.growth import CYCLE, WORKERS, growth
from benchmarks.serving.http import Clients, HttpTarget
from benchmarks.serving.inprocess import batch_of, ready_batches, running_engine, step_seconds
from benchmarks.serving.load import Request, load
from benchmarks.serving.plan import Plan
from benchmarks.serving.results import load_result
from benchmarks.serving.serving import Served
from gradmem_core.attention import BLOCK, causal_attention
from gradmem_core.backbone import Backbone
from gradmem_core.checkpoints.checkpoint import Checkpoint, save_checkpoint
from gradmem_core.model import MemoryModel
from gradmem_core.writing.descent import write
from service.cli import app
from service.client import ConnectionFailed, Overloaded, Unavailable
from service.schemas import Problem
from service.settings import Settings

PLAN = Plan(
    checkpoint="",
    url=None,
    sections=(),
    seconds=0.05,
    overload_seconds=0.2,
    requests=1,
    runs=2,
    seed=3,
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The matrices are tiny, and the machine that tests run on may be busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def wide_folder(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smaller model than tiny that takes documents of 16 pairs."""
    folder = tmp_path_factory.mktemp("checkpoints") / "wide"
    backbone = Backbone.from_config(
        {
            "model_type": "llama",
            "vocab_size": len(tiny.tokenizer),
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "max_position_embeddings": 128,
        },
        seed=1,
    )
    config = tiny.model.config.model_copy(update={"memory_tokens": 1, "max_context_tokens": 120})
    model = MemoryModel(backbone, config, seed=1)
    save_checkpoint(
        folder, name="wide", model=model, tokenizer=tiny.tokenizer, task=tiny.task, card="# wide\n"
    )
    return folder


def test_a_kept_document_answers_as_the_text_does(tiny: Checkpoint) -> None:
    drawn = documents(3, pairs=4, seed=1)
    ids = batch_of(tiny, drawn).ids
    queries = torch.tensor([tiny.tokenizer.encode(one.queries[1]) for one in drawn])
    backbone = tiny.model.backbone
    room = InPlace.with_room(prefilled(backbone, ids), queries.shape[1] + ANSWER_TOKENS)
    from_cache = cached(backbone, queries, InPlace(room, ids.shape[1]))
    again = cached(backbone, queries, InPlace(room, ids.shape[1]))
    from_text = reread(backbone, ids, queries, backbone.new_cache())
    assert from_cache.shape == (3, ANSWER_TOKENS)
    assert from_cache.tolist() == from_text.tolist() == again.tolist()


def test_lengths_beyond_the_checkpoint_are_noted(tiny: Checkpoint) -> None:
    rows, notes = contexts(tiny, PLAN)
    assert [(one.pairs, one.tokens, one.batch) for one in rows] == [
        (pairs, 7 * pairs + 1, batch)
        for pairs in (4, 8)
        for batch in context.BATCHES
        for _ in range(PLAN.runs)
    ]
    assert [note.split()[1] for note in notes] == ["16", "32", "64", "96"]
    assert {one.memory_bytes for one in rows} == {4 * 32 * 4}
    assert {one.cache_bytes for one in rows if one.pairs == 4} == {2 * 2 * 32 * 4 * 29}


def test_the_counter_sees_all_of_attentions_products() -> None:
    tokens, width = BLOCK + 36, 16
    query, key, value = (torch.randn(2, tokens, width, requires_grad=True) for _ in range(3))
    pairs = BLOCK * BLOCK + 36 * tokens  # of rows and columns, for each of the two heads
    with FlopCounterMode(display=False) as forward:
        out = causal_attention(query, key, value, 0.1)
    assert forward.get_total_flops() == 2 * 2 * 2 * width * pairs
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(out.sum(), (query, key, value))
    assert backward.get_total_flops() == 2 * 5 * 2 * width * pairs


def test_plain_products_are_those_of_a_forward_pass(tiny: Checkpoint) -> None:
    products = Products(tiny.model, rows=10)
    with FlopCounterMode(display=False) as counter:
        products()
    assert counter.get_total_flops() == products.flop == 2 * 10 * 2 * (4 * 32 * 32 + 3 * 32 * 64)


def test_the_unrolled_write_makes_the_same_memories(tiny: Checkpoint) -> None:
    batch = batch_of(tiny, [*documents(2, pairs=3, seed=1), *documents(1, pairs=5, seed=1)])
    found = unrolled_write(tiny.model, batch, 2)
    expected = write(tiny.model, batch.ids, batch.lengths, 2, create_graph=False).memory
    assert found.requires_grad
    torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-5)


def test_the_device_section_goes_beyond_the_checkpoints_limits(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"PAIRS": 10, "BATCH": 2, "LONG_PAIRS": 12, "LONG_BATCH": 1, "STEPS": 2, "REPEATS": 1}
    for name, value in (sizes | {"PEAKS": ((1, 1), (2, 9))}).items():
        monkeypatch.setattr(device, name, value)
    found = device.device(tiny, PLAN)
    assert len(found.efficiency) == len(found.read_times) == PLAN.runs
    assert [(one.pairs, one.batch) for one in found.unrolled] == [(10, 2), (12, 1)]
    assert all(one.serving_bytes < one.unrolled_bytes for one in found.unrolled)
    assert [(one.batch, one.steps) for one in found.peaks] == [(1, 1), (2, 9)]
    assert tiny.model.config.max_context_tokens == 64


def test_a_profile_keeps_all_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "OPERATIONS", 1)
    one = torch.ones(4, 4)

    def work() -> None:
        for _ in range(1000):
            one.mul(one)
        one.add(one)

    calls = [(found.name, found.calls) for found in operations(work)]
    assert calls == [("aten::mul", 1000), ("all others", 1)]


def test_steps_and_ready_batches_are_timed(tiny: Checkpoint) -> None:
    drawn = documents(2, pairs=2, seed=1)
    found = ready_batches(tiny, drawn, steps=1, seconds=0.01)
    assert found.via == "ready batches"
    assert found.answered % 2 == 0
    assert isinstance(step_seconds(tiny, drawn, steps=2, rounds=1), float)


@pytest.mark.anyio
async def test_the_engine_answers_loads(settings: Settings) -> None:
    drawn = documents(3, pairs=2, seed=1)
    async with running_engine(settings) as engine:
        reads = await engine.reads(drawn)
        async with engine.saturated(drawn, steps=1, concurrency=2, warm_up=0.0) as writing:
            found = await load(reads, via=engine.via, concurrency=2, seconds=0.05)
    assert (found.via, found.concurrency, found.failures) == ("in-process", 2, {})
    assert writing[0].failures == {}


@pytest.mark.anyio
async def test_writers_of_another_process_saturate_the_service(base_url: str) -> None:
    drawn = documents(3, pairs=2, seed=1)
    async with aclosing(Clients(base_url)) as clients:
        target = HttpTarget(base_url, clients)
        reads = await target.reads(drawn)
        async with target.saturated(drawn, steps=1, concurrency=2, warm_up=0.05) as writing:
            found = await load(reads, via=target.via, concurrency=2, seconds=0.05)
    assert found.failures == {}
    assert (writing[0].concurrency, writing[0].failures) == (2, {})


@pytest.mark.anyio
async def test_every_outcome_of_an_overload_is_counted() -> None:
    problem = Problem(type="about:blank", title="", status=500, detail="")
    errors = [
        None,
        Overloaded(problem, status=429),
        Unavailable(problem, status=503),
        ConnectionFailed(),
    ]
    calls: list[int] = []

    def request(number: int) -> Request:
        async def send() -> None:
            calls.append(number)
            await asyncio.sleep(0)
            error = errors[number]
            if error:
                raise error

        return send

    requests = [request(number) for number in range(4)]
    found = await overload.offered(requests, rate=1000, seconds=0.1, seed=1)
    again = await overload.offered(requests, rate=1000, seconds=0.1, seed=1)
    counts = [len(found.succeeded), found.refused, found.failed, found.unanswered]
    assert counts == [len(calls[: found.sent][n::4]) for n in range(4)]
    assert found.sent == again.sent == len(calls) / 2 > 50
    assert found.seconds > 0


@pytest.mark.anyio
async def test_growth_looks_at_the_memory_on_the_way(base_url: str) -> None:
    found = await growth(base_url, lambda: 2**20, PLAN)
    assert found is not None
    assert found.failed == 0
    # Every worker lives through one memory before it sees that there were enough.
    assert [one.requests for one in found.footprints] == [
        CYCLE * count for count in range(1, WORKERS + 1)
    ]
    assert {one.bytes for one in found.footprints} == {2**20}
    assert await growth(base_url, Served(base_url, None).resident_bytes, PLAN) is None


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["bench", *arguments])


def test_the_command_measures_a_service_of_its_own(
    wide_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded, "WRITERS", (1, 32))
    file = tmp_path / "bench.json"
    options = ["--only", "write", "--seconds", "0.2", "--runs", "1", "--json", str(file)]
    done = bench("--checkpoint", str(wide_folder), *options)
    assert done.exit_code == 0, done.stderr
    assert done.stderr == "write\n"
    result = load_result(file)
    assert result.read is None
    assert result.write is not None
    (loads,) = result.write.runs
    assert len(loads) == 5
    assert {one.via for one in loads} == {"HTTP", "in-process", "ready batches"}
    assert done.stdout.count("| HTTP |") == 2


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (["--only", "write,reed"], 2, "error: --only: reed: take some of write, read"),
        (["--checkpoint", "none"], 2, "error: there is no checkpoint 'none'"),
        (["--only", "growth", "--url", "http://127.0.0.1:1"], 1, "error: cannot reach"),
    ],
)
def test_what_cannot_be_measured_is_told(options: list[str], status: int, says: str) -> None:
    done = bench(*options)
    assert (done.exit_code, done.stdout) == (status, "")
    assert done.stderr.startswith(says)


def test_a_service_of_another_checkpoint_is_refused(base_url: str, wide_folder: Path) -> None:
    done = bench("--only", "growth", "--url", base_url, "--checkpoint", str(wide_folder))
    assert done.exit_code == 2
    assert "tiny of another fingerprint than wide" in done.stderr
