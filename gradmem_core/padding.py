"""Rows of different lengths as one tensor."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pad_right(
    rows: Sequence[Sequence[int]], filler: int, *, device: torch.device | None = None
) -> Tensor:
    """Pad `N` rows of token ids on the right: `(N, longest)`, int64."""
    longest = max(len(row) for row in rows)
    padded = [[*row, *[filler] * (longest - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.long, device=device)
