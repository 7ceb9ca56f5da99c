"""What the engine is asked to do, and how one batch of it is done on the device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from gradmem_core.checkpoint import Checkpoint
from gradmem_core.decode import Answer, Sampling
from gradmem_core.generate import generate
from gradmem_core.padding import pad_right
from gradmem_core.write import write


@dataclass(frozen=True)
class WriteWork:
    """One document to write."""

    checkpoint: Checkpoint
    context_ids: list[int]
    steps: int

    @property
    def batch_key(self) -> tuple[object, ...]:
        """Work of one key can share a batch."""
        return ("write", self.checkpoint.name, self.steps)

    @property
    def weight(self) -> int:
        """Rows of a batch that it takes."""
        return 1


@dataclass(frozen=True)
class ReadWork:
    """The queries of one request; one sampling setting for each."""

    checkpoint: Checkpoint
    memory: Tensor
    "`(m, d)`."
    queries: list[list[int]]
    sampling: list[Sampling]

    @property
    def batch_key(self) -> tuple[object, ...]:
        """Work of one key can share a batch."""
        return ("read", self.checkpoint.name)

    @property
    def weight(self) -> int:
        """Rows of a batch that it takes."""
        return len(self.queries)


@dataclass(frozen=True)
class WrittenMemory:
    """What came of a document."""

    memory: Tensor
    "Float32 `(m, d)`, on the CPU."
    losses: list[float]
    "Before each step and after the last, nats per token."
    recall: float
    "Share of the tokens predicted correctly."


Work: TypeAlias = WriteWork | ReadWork
Result: TypeAlias = WrittenMemory | list[Answer]


def run_batch(works: Sequence[Work]) -> list[Result]:
    """Do work of one batch key on the device; one result for each, in order.

    Raises:
        GradMemError: One of the inputs was refused or diverged; no result is returned.
    """
    if isinstance(works[0], WriteWork):
        return list(_write([work for work in works if isinstance(work, WriteWork)]))
    return list(_read([work for work in works if isinstance(work, ReadWork)]))


def _write(works: list[WriteWork]) -> list[WrittenMemory]:
    checkpoint = works[0].checkpoint
    device = checkpoint.model.initial_memory.device
    contexts = [work.context_ids for work in works]
    written = write(
        checkpoint.model,
        pad_right(contexts, checkpoint.tokenizer.pad_id, device=device),
        torch.tensor([len(ids) for ids in contexts], device=device),
        works[0].steps,
        create_graph=False,
    )
    assert written.recall is not None
    return [
        WrittenMemory(memory, losses, recall)
        for memory, losses, recall in zip(
            written.memory.cpu(), written.losses.tolist(), written.recall.tolist(), strict=True
        )
    ]


def _read(works: list[ReadWork]) -> list[list[Answer]]:
    checkpoint = works[0].checkpoint
    device = checkpoint.model.initial_memory.device
    answers = iter(
        generate(
            checkpoint.model,
            torch.stack([work.memory for work in works]).to(device),
            [query for work in works for query in work.queries],
            [index for index, work in enumerate(works) for _ in work.queries],
            [sampling for work in works for sampling in work.sampling],
            stop_ids=checkpoint.stop_ids,
        )
    )
    return [[next(answers) for _ in work.queries] for work in works]
