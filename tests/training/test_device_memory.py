"""Batches that would not fit are recomputed, then halved."""

import math
from typing import Literal

import pytest
import torch

from gradmem_core.backbone import Backbone
from gradmem_core.errors import OutOfMemoryError
from training.loop.batch import IGNORED, Batch
from training.loop.device_memory import READ_VALUES, STEP_VALUES, DeviceMemory

SETTINGS = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
VALUE = 3 * 16 * 2
"Layers, width, bytes of bfloat16."


def device_memory(recompute: bool | Literal["auto"], most: float | None = None) -> DeviceMemory:
    backbone = Backbone.from_config(SETTINGS, seed=1)
    memory = DeviceMemory(backbone, 4, recompute, dtype=torch.bfloat16, device=torch.device("cpu"))
    if most is not None:
        memory.bytes = most
    return memory


def batch(contexts: int) -> Batch:
    queries = torch.zeros(contexts, 2, 5, dtype=torch.long)
    labels = torch.full_like(queries, IGNORED)
    labels[:, :, -1] = 1
    ids = torch.zeros(contexts, 6, dtype=torch.long)
    return Batch(ids, torch.full((contexts,), 6), queries, labels)


def needed(contexts: int, steps: int) -> int:
    """Bytes of graphs that are kept: of `steps` times context and memory, and of the queries."""
    return VALUE * contexts * (STEP_VALUES * steps * (6 + 4) + READ_VALUES * 2 * 5)


def test_a_batch_that_fits_is_kept_whole() -> None:
    whole = batch(8)
    ((planned, recompute),) = device_memory("auto", needed(8, 3)).split(whole, 3)
    assert planned is whole
    assert not recompute


def test_a_batch_that_would_not_fit_is_recomputed_then_halved() -> None:
    ((_, recompute),) = device_memory("auto", needed(8, 3) - 1).split(batch(8), 3)
    assert recompute
    halves = device_memory("auto", needed(8, 1) - 1).split(batch(8), 3)
    assert [len(half.lengths) for half, _ in halves] == [4, 4]
    assert sum(half.share_of_contexts for half, _ in halves) == pytest.approx(1)
    singles = device_memory("auto", 1).split(batch(4), 3)
    assert [len(single.lengths) for single, _ in singles] == [1] * 4


def test_what_the_recipe_fixes_is_kept_and_not_split_before_it_failed() -> None:
    for fixed in (True, False):
        memory = device_memory(fixed)
        assert memory.bytes == math.inf
        assert [recompute for _, recompute in memory.split(batch(8), 3)] == [fixed]
        memory.shrink(batch(8), 3)
        assert [len(half.lengths) for half, _ in memory.split(batch(8), 3)] == [4, 4]
    with pytest.raises(OutOfMemoryError, match="one context of 6 tokens with 3 write steps"):
        device_memory("auto").shrink(batch(1), 3)


def test_reading_the_text_itself_counts_its_tokens() -> None:
    enough = VALUE * 8 * READ_VALUES * (2 * 5 + 6)
    assert len(device_memory("auto", enough).split(batch(8), 0)) == 1
    assert len(device_memory("auto", enough - 1).split(batch(8), 0)) == 2
