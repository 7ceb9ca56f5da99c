"""Work for the engine, its results and the events on the way to them."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.reading.answers import Answer
from gradmem_core.reading.sampling import Sampling
from gradmem_core.writing.compression import Steps, WrittenPage

PageKey: TypeAlias = tuple[str, str]
"Ids of a memory and of one of its pages."


@dataclass(frozen=True, eq=False)
class WriteWork:
    """A page to write."""

    checkpoint: Checkpoint
    context_ids: list[int]
    steps: Steps
    page: int = 0
    "Index of the page among those of its request."

    @property
    def tokens(self) -> int:
        """Room that it takes in the queue."""
        return len(self.context_ids)


@dataclass(frozen=True, eq=False)
class ReadWork:
    """Queries to a memory, with the sampling settings of each."""

    checkpoint: Checkpoint
    memory: Tensor
    "Its pages, `(p, m, d)`."
    queries: Sequence[Sequence[int]]
    sampling: Sequence[Sampling]
    documents: Sequence[Hashable]
    "Key of each page's document."
    page_keys: Sequence[PageKey] | None = None
    "Keys under which the prefilled pages are cached for later requests; None caches nothing."
    first_query: int = 0
    "Index of the first query among those of its request."

    @property
    def answers(self) -> int:
        """Answers that it makes: one for each page and query."""
        return len(self.memory) * len(self.queries)

    @property
    def tokens(self) -> int:
        """Room that it takes in the queue: its queries, and the answers at their longest."""
        in_queries = sum(len(query) for query in self.queries)
        in_answers = sum(sampling.max_new_tokens for sampling in self.sampling)
        return len(self.memory) * (in_queries + in_answers)


@dataclass(frozen=True)
class StepMade:
    """A gradient step of a WRITE."""

    step: int
    "From 1."
    loss: float
    "Before the step, nats per token."
    page: int = 0
    "Index of the page among those of its request."


@dataclass(frozen=True)
class TokenChosen:
    """A token of a page's answer to a query."""

    query: int
    "Index of the query among those of its request."
    token: int
    "Token id."
    page: int = 0
    "Index of the page among those of the memory."


DeviceWork: TypeAlias = WriteWork | ReadWork
Result: TypeAlias = WrittenPage | list[Answer]
Event: TypeAlias = StepMade | TokenChosen
