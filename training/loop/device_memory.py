"""The device's memory: batches that would not fit are recomputed or split."""

import math
import os
from typing import Literal

import torch

from gradmem_core.backbone import Backbone
from gradmem_core.errors import OutOfMemoryError
from training.loop.batch import Batch

STEP_VALUES = 50
"""Values kept for the gradient of a write step, in multiples of tokens, width and layers: the peak
of the joined step as `gradmem-bench training-step` measures it, and a fifth more."""
READ_VALUES = 20
"The same for READ, which is differentiated once."
USED = 0.85
"Share of the memory that is free at the start which graphs may take."
CPU_SHARE = 0.4
"The same of a machine's memory."
SHRUNK = 0.8
"Share of a batch's estimate that is tried after it did not fit."


class DeviceMemory:
    """The memory that graphs may take, estimated from sizes and corrected when a batch did not fit.

    Args:
        backbone: The model's transformer.
        memory_tokens: Vectors that stand before a context (m).
        recompute: Compute graphs again in place of keeping them; `auto` does so where they would
            not fit, and splits batches that would not fit even then. Without `auto`, batches are
            split only after they did not fit.
        dtype: Dtype of the transformer's matrix products.
        device: The device that computes.
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
        self.bytes = _count_free_bytes(device) if recompute == "auto" else math.inf
        "Bytes that graphs may take."

    def split(self, batch: Batch, steps: int) -> list[tuple[Batch, bool]]:
        """Split a batch into parts that fit, each with whether to recompute its graphs."""
        recompute = bool(self._recompute)
        if self._recompute == "auto":
            recompute = self._needed(batch, steps, recompute=False) > self.bytes
        needed = self._needed(batch, steps, recompute=recompute)
        if needed <= self.bytes or len(batch.lengths) == 1:
            return [(batch, recompute)]
        return [part for half in batch.halves() for part in self.split(half, steps)]

    def shrink(self, batch: Batch, steps: int) -> None:
        """Estimate the memory anew after it did not suffice for a batch.

        Raises:
            OutOfMemoryError: It was a single context.
        """
        if len(batch.lengths) == 1:
            raise OutOfMemoryError(
                f"the device has no memory for one context of {int(batch.lengths[0])} tokens with"
                f" {steps} write steps; train shorter contexts or fewer queries"
            )
        recompute = self.split(batch, steps)[0][1]
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


def _count_free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return USED * torch.cuda.mem_get_info(device)[0]
    return CPU_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
