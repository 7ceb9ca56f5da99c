"""The interface of writers: a context is written into a state, from which queries are answered.

Training and evaluation know writers by this interface only. Shapes: `B` contexts, `Q`
queries of each, `T` tokens, `V` vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from gradmem_core.backbone import Backbone
from gradmem_core.config import BlobDtype, MemoryConfig
from gradmem_core.errors import InputError
from gradmem_core.padding import pad_right

WriteSteps = int | Literal["auto"]
"A number of write steps, or `auto`: until more no longer help."


class LengthLimits(BaseModel):
    """Limits on the lengths of contexts, queries and answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_context_tokens: int = Field(ge=1)
    "Longest context, in tokens."
    max_query_tokens: int = Field(ge=1)
    "Longest query, in tokens."
    max_answer_tokens: int = Field(ge=1)
    "Most tokens of a generated answer."


@dataclass(frozen=True)
class WriterState:
    """Written contexts: all that reading needs."""

    tensors: tuple[Tensor, ...]
    "Tensors of `B` contexts, in a form of the writer's own, each with `B` first."
    floats: int
    "Numbers to store for one context."
    write_loss: Tensor | None = None
    "Reconstruction loss before the last write step `(B,)`, in nats per token; None without WRITE."
    steps: Tensor | None = None
    "Write steps of each context `(B,)`, where the writer chose them."
    stored_bytes: int | None = None
    "Bytes stored for each context, where it went through a blob."

    @property
    def bytes(self) -> int:
        """Bytes to store for one context."""
        return (
            torch.float32.itemsize * self.floats if self.stored_bytes is None else self.stored_bytes
        )


class Writer(ABC):
    """A model with its way of writing and reading."""

    kind: ClassVar[str]
    "The writer's name in recipes and results."
    model: nn.Module
    "Its parameters, with the configuration as `config`."

    @property
    def config(self) -> "MemoryConfig | LengthLimits":
        """The configuration of its states, with its limits."""
        return cast("MemoryConfig | LengthLimits", self.model.config)

    @property
    def device(self) -> torch.device:
        """The device of its model."""
        return next(self.model.parameters()).device

    @abstractmethod
    def write(
        self, context_ids: Tensor, lengths: Tensor, steps: WriteSteps, *, train: bool
    ) -> WriterState:
        """Write contexts.

        Args:
            context_ids: `(B, T)`, padded on the right with any id.
            lengths: Tokens of each context, `(B,)`, at least 1.
            steps: Gradient steps, or passes of a forward writer.
            train: Keep the graph, so that a loss of reading can be differentiated.

        Raises:
            InputError: The writer cannot write that many steps, or contexts of that length.
        """

    @abstractmethod
    def hidden(self, state: WriterState, query_ids: Tensor) -> Tensor:
        """Run queries `(B, Q, T)` through the backbone: hidden states `(B, Q, T, d)`."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Score what follows hidden states: `(..., d)` → `(..., V)`."""
        return cast("Backbone", self.model.backbone).logits(hidden)

    def read(self, state: WriterState, query_ids: Tensor) -> Tensor:
        """Score what follows each token of queries `(B, Q, T)`: logits `(B, Q, T, V)`."""
        return self.logits(self.hidden(state, query_ids))

    def store(self, state: WriterState, dtype: BlobDtype) -> WriterState:  # noqa: ARG002
        """Return the state as a blob would keep it.

        Raises:
            InputError: The writer's states have no blob.
        """
        raise InputError(f"{self.kind} has no blobs; leave out {dtype!r}")

    @torch.no_grad()
    def answer(
        self,
        state: WriterState,
        queries: Sequence[Sequence[list[int]]],
        *,
        max_tokens: int,
        stop_ids: Sequence[int],
    ) -> list[list[list[int]]]:
        """Continue queries greedily until a stop token, which is left out.

        Args:
            state: `B` written contexts.
            queries: Token ids of `Q` queries for each context.
            max_tokens: Longest answer.
            stop_ids: Tokens that end an answer.

        Returns:
            Token ids for each context and query, cut off after `max_tokens`.
        """
        shape = (len(queries), len(queries[0]))
        prompts = [list(query) for row in queries for query in row]
        answers: list[list[int]] = [[] for _ in prompts]
        unfinished = set(range(len(prompts)))
        for _ in range(max_tokens):
            rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
            logits = self.read(
                state, pad_right(rows, 0, device=self.device).view(*shape, -1)
            ).flatten(0, 1)
            last = [len(row) - 1 for row in rows]
            tokens = logits[range(len(rows)), last].argmax(dim=-1).tolist()
            for index in sorted(unfinished):
                if tokens[index] in stop_ids:
                    unfinished.discard(index)
                else:
                    answers[index].append(tokens[index])
            if not unfinished:
                break
        return [answers[start : start + shape[1]] for start in range(0, len(answers), shape[1])]
