"""Baselines that need no training: the text itself, whole, in part or not at all.

They run on the backbone of a GradMem.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gradmem_core.errors import InputError
from gradmem_core.model import MemoryModel
from training.writers.base import LengthLimits, Writer, WriterState, WriteSteps
from training.writers.full_context import FullContext, FullContextModel


@dataclass(frozen=True)
class FirstTokens(FullContext):
    """Keeps the first tokens of the context, as many as a memory has vectors."""

    kind: ClassVar[str] = "first-tokens"
    tokens: int = 0
    "Number of tokens; 0 keeps nothing."

    def write(
        self, context_ids: Tensor, lengths: Tensor, steps: WriteSteps, *, train: bool
    ) -> WriterState:
        """Write contexts (see `Writer.write`)."""
        first = context_ids[:, : max(self.tokens, 1)]
        return super().write(first, lengths.clamp(max=self.tokens), steps, train=train)


@dataclass(frozen=True)
class NoContext(FirstTokens):
    """Keeps nothing: the backbone answers from its weights."""

    kind: ClassVar[str] = "no-context"


BASELINES = (FullContext.kind, FirstTokens.kind, NoContext.kind)


def build_baseline(kind: str, writer: Writer) -> Writer:
    """Build a baseline on the backbone of a GradMem.

    Raises:
        InputError: There is no such baseline, or `writer` is no GradMem.
    """
    if kind not in BASELINES:
        raise InputError(f"baseline {kind!r} is not one of {', '.join(BASELINES)}")
    if not isinstance(writer.model, MemoryModel):
        raise InputError(
            f"{kind} needs the backbone of a gradmem checkpoint, and this is {writer.kind}"
        )
    config = writer.model.config
    limits = LengthLimits(
        max_context_tokens=config.max_context_tokens,
        max_query_tokens=config.max_query_tokens,
        max_answer_tokens=config.max_answer_tokens,
    )
    model = FullContextModel(writer.model.backbone, limits)
    if kind == FullContext.kind:
        return FullContext(model)
    if kind == FirstTokens.kind:
        return FirstTokens(model, tokens=config.memory_tokens)
    return NoContext(model)
