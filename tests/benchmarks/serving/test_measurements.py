"""The measurements on a tiny checkpoint: what they compute and count, not how fast."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.rows import Efficiency, Operation, PeakMemory, ReadByLength, Unrolled
from benchmarks.serving import break_even, device, growth
from benchmarks.serving.documents import draw_documents, tokenize
from benchmarks.serving.process import RunningService
from gradmem_core.attention import causal_attention
from gradmem_core.attention.blocks import BLOCK
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.writing.descent import write

RUNS = 2


def test_a_cached_document_answers_as_the_text_does(tiny: Checkpoint) -> None:
    works = break_even.works_of(tiny, draw_documents(3, pairs=4, seed=1))
    cached, reread, again = works["cached"](), works["reread"](), works["cached"]()
    assert isinstance(cached, torch.Tensor)
    assert isinstance(reread, torch.Tensor)
    assert isinstance(again, torch.Tensor)
    assert cached.shape == (3, break_even.ANSWER_TOKENS)
    assert cached.tolist() == reread.tolist() == again.tolist()


def test_lengths_beyond_the_checkpoint_are_noted(tiny_folder: Path) -> None:
    rows, notes = break_even.measure_break_even(str(tiny_folder), runs=RUNS, seed=3)
    assert [(row.pairs, row.tokens, row.batch) for row in rows] == [
        (pairs, 7 * pairs + 1, batch)
        for pairs in (4, 8)
        for batch in break_even.BATCHES
        for _ in range(RUNS)
    ]
    assert [note.split()[1] for note in notes] == ["16", "32", "64", "96"]
    assert {row.memory_bytes for row in rows} == {4 * 32 * 4}
    assert {row.cache_bytes for row in rows if row.pairs == 4} == {2 * 2 * 32 * 4 * 29}


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
    products, flop = device.layer_products(tiny.model, vectors=10)
    with FlopCounterMode(display=False) as counter:
        products()
    assert counter.get_total_flops() == flop == 2 * 10 * 2 * (4 * 32 * 32 + 3 * 32 * 64)


def test_the_unrolled_write_makes_the_same_memories(tiny: Checkpoint) -> None:
    documents = [*draw_documents(2, pairs=3, seed=1), *draw_documents(1, pairs=5, seed=1)]
    batch = tokenize(tiny, documents)
    unrolled = device.write_unrolled(tiny.model, batch, 2)
    ours = write(tiny.model, *batch, 2, create_graph=False).memory
    assert unrolled.requires_grad
    torch.testing.assert_close(unrolled.detach(), ours, rtol=1e-4, atol=1e-5)


def test_another_unrolled_write_is_an_error(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = tokenize(tiny, draw_documents(2, pairs=3, seed=1))
    device.check_unrolled(tiny.model, batch)
    monkeypatch.setattr(device, "TOLERANCE", 0.0)
    with pytest.raises(ArithmeticError, match="memories of the unrolled WRITE differ"):
        device.check_unrolled(tiny.model, batch)


def test_the_device_is_measured_beyond_the_checkpoints_limits(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"PAIRS": 10, "BATCH": 2, "LONG_PAIRS": 12, "LONG_BATCH": 1, "STEPS": 2, "REPEATS": 1}
    for name, value in (sizes | {"PEAKS": ((1, 1), (2, 9))}).items():
        monkeypatch.setattr(device, name, value)
    rows = device.measure_device(str(tiny_folder), runs=RUNS, seed=3)
    kinds = [type(row) for row in rows]
    assert kinds[:-1].count(Efficiency) == kinds.count(ReadByLength) == RUNS
    assert [(row.run, row.pairs, row.batch) for row in rows if isinstance(row, Unrolled)] == [
        (1, 10, 2),
        (2, 10, 2),
        (1, 12, 1),
        (2, 12, 1),
    ]
    assert all(row.serving_bytes < row.unrolled_bytes for row in rows if isinstance(row, Unrolled))
    peaks = [(row.batch, row.steps) for row in rows if isinstance(row, PeakMemory)]
    assert peaks == [(1, 1), (2, 9)]
    assert kinds.count(Operation) == device.OPERATIONS + 1


def test_a_profile_keeps_all_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "OPERATIONS", 1)
    matrix = torch.ones(4, 4)

    def work() -> None:
        for _ in range(1000):
            matrix.mul(matrix)
        matrix.add(matrix)

    rows = device.profile_operations(work)
    assert [(row.name, row.calls) for row in rows] == [("aten::mul", 1000), ("all others", 1)]


@pytest.mark.anyio
async def test_growth_looks_at_the_memory_meanwhile(
    base_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "WORKERS", 4)
    rows = await growth.measure_growth(base_url, lambda: 2**20, requests=1, seed=3)
    unseen = await growth.measure_growth(
        base_url, RunningService(base_url, None).resident_bytes, requests=1, seed=3
    )
    # Every worker lives through one memory before it sees that there were enough.
    assert [row.requests for row in rows] == [growth.CYCLE * count for count in range(1, 5)]
    assert {(row.failed, row.bytes) for row in rows} == {(0, 2**20)}
    assert unseen == []
