"""The memory that micro-batches may take: split where they would not fit, or recomputed."""

import math
import os
from typing import Literal

import torch

from gradmem_core.backbone import Backbone
from gradmem_core.errors import OutOfMemoryError
from training.loop.batch import Batch

STEP_VALUES = 50
"""Values kept for the gradient of a write step, in multiples of tokens, width and layers: what
`gradmem-train bench --checkpoint prose` shows of the joined step's peak, and a fifth more."""
READ_VALUES = 20
"The same for READ, which is differentiated once."
USED = 0.85
"Share of the memory that is free at the start which graphs may take."
CPU_SHARE = 0.4
"The same of a machine's memory."
SHRUNK = 0.8
"Share of its estimate that is tried after a batch found no memory."


class Room:
    """The memory that graphs may take, estimated from sizes and corrected by what did not fit.

    Args:
        backbone: The model's transformer.
        memory_tokens: Vectors that stand before a context (m).
        recompute: Compute graphs again in place of keeping them; `auto` where they would not fit.
            Batches are split where even that is too much, with `auto` before it is tried.
        dtype: What the transformer computes in.
        device: Where.
    """

    def __init__(
        self,
        backbone: Backbone,
        memory_tokens: int,
        recompute: bool | Literal["auto"],
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._values = len(backbone.layers) * backbone.width * dtype.itemsize
        self._memory_tokens = memory_tokens
        self._recompute = recompute
        self.bytes = _free(device) if recompute == "auto" else math.inf
        "Bytes that graphs may take."

    def plan(self, batch: Batch, steps: int) -> list[tuple[Batch, bool]]:
        """Split a batch into what goes through at once, each with whether to recompute."""
        recompute = bool(self._recompute)
        if self._recompute == "auto":
            recompute = self._needed(batch, steps, recompute=False) > self.bytes
        needed = self._needed(batch, steps, recompute=recompute)
        if needed <= self.bytes or len(batch.lengths) == 1:
            return [(batch, recompute)]
        return [planned for half in batch.halves() for planned in self.plan(half, steps)]

    def shrink(self, batch: Batch, steps: int) -> None:
        """Take in that a batch found no memory.

        Raises:
            OutOfMemoryError: It was a single context.
        """
        if len(batch.lengths) == 1:
            raise OutOfMemoryError(
                f"the device has no memory for one context of {int(batch.lengths[0])} tokens with"
                f" {steps} write steps; train shorter contexts or fewer queries"
            )
        recompute = self.plan(batch, steps)[0][1]
        needed = self._needed(batch, steps, recompute=recompute)
        self.bytes = SHRUNK * min(self.bytes, needed)

    def _needed(self, batch: Batch, steps: int, *, recompute: bool) -> float:
        """Estimate the bytes of a batch's graphs."""
        contexts, tokens = batch.context_ids.shape
        written = (
            contexts * (tokens + self._memory_tokens) * (min(steps, 1) if recompute else steps)
        )
        asked = batch.query_ids.numel() + (0 if steps else batch.context_ids.numel())
        return self._values * (STEP_VALUES * written + READ_VALUES * asked)


def _free(device: torch.device) -> float:
    if device.type == "cuda":
        return USED * torch.cuda.mem_get_info(device)[0]
    return CPU_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
