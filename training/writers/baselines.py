"""What a memory is measured against on the same backbone: its text, whole, in part or not at all.

Nothing of it is trained: the backbone is that of a checkpoint.
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
    """The context's first tokens are kept as text, as many as a memory has vectors."""

    kind: ClassVar[str] = "first-tokens"
    kept: int = 0
    "How many; 0 keeps nothing."

    def write(
        self, context_ids: Tensor, lengths: Tensor, steps: WriteSteps, *, train: bool
    ) -> WriterState:
        """Make states of contexts (see `Writer.write`)."""
        kept = context_ids[:, : max(self.kept, 1)]
        return super().write(kept, lengths.clamp(max=self.kept), steps, train=train)


@dataclass(frozen=True)
class NoContext(FirstTokens):
    """Nothing is kept: what the backbone knows by itself."""

    kind: ClassVar[str] = "no-context"


BASELINES = (FullContext.kind, FirstTokens.kind, NoContext.kind)


def build_baseline(kind: str, writer: Writer) -> Writer:
    """A rival on the backbone of a GradMem.

    Raises:
        InputError: There is no such rival, or `writer` is no GradMem.
    """
    if kind not in BASELINES:
        raise InputError(f"rival {kind!r} is not one of {', '.join(BASELINES)}")
    if not isinstance(writer.model, MemoryModel):
        raise InputError(f"rivals stand beside a GradMem, and this is a {writer.kind}")
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
        return FirstTokens(model, kept=config.memory_tokens)
    return NoContext(model)
