"""Rows of different lengths as one tensor."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pad_right(
    rows: Sequence[Sequence[int]], filler: int, *, device: torch.device | None = None
) -> Tensor:
    """Fill the right of `N` rows of token ids: `(N, longest)`, int64."""
    longest = max(len(row) for row in rows)
    filled = [[*row, *[filler] * (longest - len(row))] for row in rows]
    return torch.tensor(filled, dtype=torch.long, device=device)
