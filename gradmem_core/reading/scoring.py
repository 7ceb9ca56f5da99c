"""Teacher-forced READ: logits of queries and targets behind their memories, for training.

Shapes: `B` memories, `Q` queries of each, `N` queries in all, `m` memory vectors, `T` query tokens,
`d` width, `V` vocabulary.
"""

from typing import Protocol

import torch
from torch import Tensor

from gradmem_core.backbone import Backbone


class Readable(Protocol):
    """A model that can read a memory."""

    backbone: Backbone

    def prefix(self, memory: Tensor) -> Tensor:
        """Map memories to inputs of the backbone: `(B, m, d)` → `(B, m, d)`."""


def read(model: Readable, memory: Tensor, query_ids: Tensor) -> Tensor:
    """Score every token of the queries (and of the targets that follow them), teacher-forced.

    Args:
        model: Backbone, and the map from a memory to its inputs.
        memory: `(B, m, d)`.
        query_ids: Token ids of queries with their targets, `(B, Q, T)`, padded on the right with
            any id.

    Returns:
        Logits `(B, Q, T + 1, V)`: entry `j` predicts query token `j`, the last predicts what
        follows.
    """
    return model.backbone.logits(read_hidden(model, memory, query_ids))


def read_hidden(model: Readable, memory: Tensor, query_ids: Tensor) -> Tensor:
    """Run the queries through the backbone behind their memories.

    The queries of a memory are packed into one sequence, so that the memory is computed once for
    all of them: each query sees the memory and itself, and its positions start right after the
    memory. The result is exactly that of reading them one by one.

    Args:
        model: See `read`.
        memory: `(B, m, d)`.
        query_ids: `(B, Q, T)`.

    Returns:
        Hidden states `(B, Q, T + 1, d)`: entry `j` predicts query token `j`, the last predicts what
        follows.
    """
    batch, queries, tokens = query_ids.shape
    size = memory.shape[1]
    embedded = model.backbone.embed(query_ids.flatten(1))  # (B, Q * T, d)
    inputs = torch.cat([model.prefix(memory), embedded], dim=1)  # (B, m + Q * T, d)
    hidden = model.backbone.hidden(
        inputs,
        mask=_packed_mask(size, queries, tokens, query_ids.device),
        positions=_packed_positions(size, queries, tokens, query_ids.device),
    )
    # The last memory vector predicts the first token of every query.
    first = hidden[:, size - 1, None, None].expand(-1, queries, -1, -1)  # (B, Q, 1, d)
    rest = hidden[:, size:].view(batch, queries, tokens, -1)  # (B, Q, T, d)
    return torch.cat([first, rest], dim=2)


def _packed_positions(size: int, queries: int, tokens: int, device: torch.device) -> Tensor:
    """Return position ids `(1, m + Q * T)` that restart after the memory for every query."""
    query = torch.arange(size, size + tokens, device=device).repeat(queries)
    return torch.cat([torch.arange(size, device=device), query])[None]


def _packed_mask(size: int, queries: int, tokens: int, device: torch.device) -> Tensor:
    """Return the mask `(1, 1, m + Q * T, m + Q * T)`, True where a token sees another.

    A token sees those before it in the memory and in its own query.
    """
    owner = torch.arange(queries, device=device).repeat_interleave(tokens)
    owner = torch.cat([torch.full((size,), -1, device=device), owner])  # -1 is the memory
    causal = torch.ones(len(owner), len(owner), dtype=torch.bool, device=device).tril()
    seen = (owner[None, :] == -1) | (owner[None, :] == owner[:, None])
    return (causal & seen)[None, None]
