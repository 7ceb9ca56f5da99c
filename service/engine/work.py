"""What the engine is asked to do, and what comes of it."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.reading.answers import Answer
from gradmem_core.reading.decoding import Sampling
from gradmem_core.writing.compression import Steps, WrittenPage

PageId: TypeAlias = tuple[str, str]
"Ids of a memory and of one of its pages."


@dataclass(frozen=True, eq=False)
class WriteWork:
    """One page to write."""

    checkpoint: Checkpoint
    context_ids: list[int]
    steps: Steps

    @property
    def tokens(self) -> int:
        """Room that it takes in the queue."""
        return len(self.context_ids)


@dataclass(frozen=True, eq=False)
class ReadWork:
    """Queries of one memory; one sampling setting for each."""

    checkpoint: Checkpoint
    memory: Tensor
    "Its pages, `(p, m, d)`."
    queries: Sequence[Sequence[int]]
    sampling: Sequence[Sampling]
    documents: Sequence[Hashable]
    "For each page what tells its document from others."
    page_ids: Sequence[PageId] | None = None
    """For each page the memory's id and its own, by which what is prefilled is kept for later
    requests; None keeps nothing."""

    @property
    def answers(self) -> int:
        """Answers that it makes: one for each page and query."""
        return len(self.memory) * len(self.queries)

    @property
    def tokens(self) -> int:
        """Room that it takes in the queue: its queries, and the answers at their longest."""
        asked = sum(len(query) for query in self.queries)
        return len(self.memory) * (asked + sum(one.max_new_tokens for one in self.sampling))


@dataclass(frozen=True)
class StepMade:
    """Told after each gradient step of a WRITE."""

    step: int
    "From 1."
    loss: float
    "Before the step, nats per token."
    page: int = 0
    "Which of the request's pages, from 0."


@dataclass(frozen=True)
class TokenChosen:
    """Told after each token of a page's answer to a query."""

    query: int
    "Which of the request's queries, from 0."
    token: int
    "Its id."
    page: int = 0
    "Which of the memory's pages, from 0."


Work: TypeAlias = WriteWork | ReadWork
Result: TypeAlias = WrittenPage | list[Answer]
Event: TypeAlias = StepMade | TokenChosen
