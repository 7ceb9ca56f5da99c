"""What the engine is asked to do, and what comes of it."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from gradmem_core.checkpoint import Checkpoint
from gradmem_core.decode import Answer, Sampling

Steps: TypeAlias = int | Literal["auto"]
"A number of gradient steps, or as many as still help."


@dataclass(frozen=True, eq=False)
class WriteWork:
    """One document to write."""

    checkpoint: Checkpoint
    context_ids: list[int]
    steps: Steps

    @property
    def tokens(self) -> int:
        """Room that it takes in the queue."""
        return len(self.context_ids)


@dataclass(frozen=True, eq=False)
class ReadWork:
    """The queries of one request; one sampling setting for each."""

    checkpoint: Checkpoint
    memory: Tensor
    "`(m, d)`."
    queries: list[list[int]]
    sampling: list[Sampling]
    page: tuple[str, str] | None = None
    """Ids of the memory and its page, by which the prefilled memory is kept for later requests;
    None keeps nothing."""

    @property
    def tokens(self) -> int:
        """Room that it takes in the queue: its queries, and the answers at their longest."""
        asked = sum(len(query) for query in self.queries)
        return asked + sum(one.max_new_tokens for one in self.sampling)


@dataclass(frozen=True)
class WrittenMemory:
    """What came of a document."""

    memory: Tensor
    "Float32 `(m, d)`, on the CPU."
    losses: list[float]
    "Before each step and after the last, nats per token."
    recall: float
    "Share of the tokens predicted correctly."

    @property
    def steps(self) -> int:
        """Gradient steps that made the memory."""
        return len(self.losses) - 1


@dataclass(frozen=True)
class StepMade:
    """Told after each gradient step of a WRITE."""

    step: int
    "From 1."
    loss: float
    "Before the step, nats per token."


@dataclass(frozen=True)
class TokenChosen:
    """Told after each token of an answer."""

    query: int
    "Which of the request's queries, from 0."
    token: int
    "Its id."


Work: TypeAlias = WriteWork | ReadWork
Result: TypeAlias = WrittenMemory | list[Answer]
Event: TypeAlias = StepMade | TokenChosen
