"""Work for the engine, its results and the events on the way to them."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from torch import Tensor

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.reading.answers import Answer
from gradmem_core.reading.generation import split_queries
from gradmem_core.reading.sampling import Sampling
from gradmem_core.writing.compression import Steps, WrittenPage
from service.engine.pace import Operation

PageKey: TypeAlias = tuple[str, str]
"Key of a memory, and that of one of its pages, which is another one once it is written again."


@dataclass(frozen=True, eq=False)
class WriteWork:
    """A page to write."""

    operation: ClassVar[Operation] = "write"
    checkpoint: Checkpoint
    context_ids: list[int]
    steps: Steps
    page: int = 0
    "Index of the page among those of its request."

    @property
    def tokens(self) -> int:
        """Room that it takes in the queue."""
        return len(self.context_ids)

    @property
    def step_cost(self) -> int:
        """Tokens times parameters: what a gradient step takes."""
        return self.tokens * self.checkpoint.parameters

    @property
    def units(self) -> int:
        """Tokens times gradient steps, as many as are expected."""
        usual = self.checkpoint.model.config.write_steps if self.steps == "auto" else self.steps
        return self.tokens * usual


@dataclass(frozen=True, eq=False)
class ReadWork:
    """Queries to a memory, with the sampling settings of each."""

    operation: ClassVar[Operation] = "read"
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
    def units(self) -> int:
        """Its answers: one for each page and query."""
        return self.answers

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
    probability: float
    "Its probability, given the tokens before it."
    page: int = 0
    "Index of the page among those of the memory."


DeviceWork: TypeAlias = WriteWork | ReadWork
Result: TypeAlias = WrittenPage | list[Answer]
Event: TypeAlias = StepMade | TokenChosen


def list_writes(
    checkpoint: Checkpoint, pages: Sequence[list[int]], steps: Steps, *, first_page: int = 0
) -> list[WriteWork]:
    """Return the work of writing pages; their numbers go on from `first_page`."""
    return [
        WriteWork(checkpoint, ids, steps, number)
        for number, ids in enumerate(pages, start=first_page)
    ]


def list_reads(
    checkpoint: Checkpoint,
    memory: Tensor,
    queries: Sequence[Sequence[int]],
    sampling: Sequence[Sampling],
    *,
    documents: Sequence[Hashable] | None = None,
    page_keys: Sequence[PageKey] | None = None,
) -> list[ReadWork]:
    """Return the work of answering queries, in parts of a batch's size (see `ReadWork`)."""
    documents = [None] * len(memory) if documents is None else documents
    return [
        ReadWork(
            checkpoint,
            memory,
            queries[part],
            sampling[part],
            documents,
            page_keys,
            first_query=part.start,
        )
        for part in split_queries(len(queries), pages=len(memory))
    ]
