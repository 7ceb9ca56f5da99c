"""Documents of symbol pairs, which the bundled `kv` checkpoints were trained for."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.padding import pad_right
from training.tasks.base import Example
from training.tasks.kv import KeyValueTask


def draw_documents(count: int, *, pairs: int, seed: int) -> list[Example]:
    """Draw documents that ask for each of their pairs once; the same seed gives the same ones."""
    draws = np.random.default_rng([seed, pairs])
    return [KeyValueTask().sample(draws, size=pairs, queries=pairs) for _ in range(count)]


def tokenize(checkpoint: Checkpoint, documents: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Return token ids `(B, T)`, padded on the right, and lengths `(B,)`, beside the model."""
    device = checkpoint.model.initial_memory.device
    rows = [checkpoint.tokenizer.encode(document.context) for document in documents]
    ids = pad_right(rows, checkpoint.tokenizer.pad_id, device=device)
    return ids, torch.tensor([len(row) for row in rows], device=device)
