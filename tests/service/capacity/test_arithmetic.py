"""Counted operations beside torch's own count, and record sizes beside stored records."""

import shutil
from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode

from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from gradmem_core.checkpoints.manifest import find_checkpoint
from gradmem_core.errors import CheckpointError
from gradmem_core.reading.sampling import Sampling
from service.capacity.arithmetic import ModelShape, record_bytes
from service.engine import TorchDevice, WriteWork, list_reads
from service.engine.device import OngoingRead, OngoingWrite
from tests.pretrained import text_checkpoint

TOKENS = 70
"More than a block of attention's rows."
BATCH = 2
QUERY = 9


@pytest.fixture(scope="module", params=["kv-96", "grouped heads"])
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Checkpoint, ModelShape]:
    reference: str | Path = "kv-96"
    if request.param != reference:
        folder = tmp_path_factory.mktemp("text")
        # torch cannot count a map whose input is the memory itself
        text_checkpoint(folder, memory_projection=False, max_context_tokens=80)
        reference = folder / "text"
    return load_checkpoint(reference), ModelShape.load(reference)


def test_gradient_steps_are_counted_exactly(checkpoint: tuple[Checkpoint, ModelShape]) -> None:
    loaded, shape = checkpoint
    device = TorchDevice(prefix_bytes=0)
    writes = [OngoingWrite(WriteWork(loaded, [5] * TOKENS, 2)) for _ in range(BATCH)]
    counts = []
    for _ in range(2):
        with FlopCounterMode(display=False) as counter:
            device.write_step(writes)
        counts.append(counter.get_total_flops() / BATCH)
    step = shape.gradient_step_flop(TOKENS)
    assert counts == [step, step + shape.scoring_flop(TOKENS)]
    assert shape.write_flop(TOKENS, 2) == sum(counts)


def test_answers_are_counted_exactly_but_for_attention_that_torch_leaves_out(
    checkpoint: tuple[Checkpoint, ModelShape],
) -> None:
    loaded, shape = checkpoint
    device = TorchDevice(prefix_bytes=0)
    memory = loaded.model.initial_memory.detach()[None]
    (work,) = list_reads(loaded, memory, [[7] * QUERY], [Sampling(4)])
    read = OngoingRead(work)
    with FlopCounterMode(display=False) as counter:
        device.begin([read])
        tokens = 0
        while not read.done:
            tokens += len(device.read_step([read]))
    counted = counter.get_total_flops()
    ours = shape.prefill_flop() + shape.read_flop(1, query_tokens=QUERY, answer_tokens=tokens)
    assert 0 <= ours - counted < 0.2 * ours


def test_second_order_costs_three_times_as_much() -> None:
    shape = ModelShape.load("kv-96")
    assert shape.training_flop(100, 5) == 15 * shape.gradient_step_flop(100)


def test_a_document_is_divided_into_equal_pages() -> None:
    shape = ModelShape.load("prose")
    assert shape.pages_of(64) == [64]
    assert shape.pages_of(65) == [33, 32]
    assert sum(shape.pages_of(1000)) == 1000


def test_a_record_grows_by_its_pages_and_its_elements() -> None:
    shape = ModelShape.load("prose")
    vectors = shape.memory.memory_tokens * shape.width
    one = record_bytes(shape, 64, "int8", name=None)
    assert 0 < one - vectors < 1500
    assert record_bytes(shape, 64, "float32", name=None) - one > 2.9 * vectors
    assert record_bytes(shape, 128, "int8", name=None) - one > vectors


def test_other_kinds_of_backbones_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(find_checkpoint("kv-96"), folder)
    config = folder / "backbone" / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"gpt2"'))
    with pytest.raises(CheckpointError, match="type llama, and kv-96 has 'gpt2'"):
        ModelShape.load(folder)
