"""The key-value cache of a batch whose rows join, grow and leave on their own.

Shapes: `N` rows, `m` memory vectors, `T` tokens, `S` columns of the cache, `h` heads, `w` width of
a head, `d` width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gradmem_core.backbone import Backbone, Cache, KeysAndValues
from gradmem_core.model import MemoryModel
from gradmem_core.padding import pad_right


@dataclass(frozen=True)
class Prefix:
    """Keys and values of one memory, shared by all queries that read it."""

    layers: KeysAndValues
    "Keys and values of each layer, each `(h, m, w)`."

    @property
    def size(self) -> int:
        """Number of vectors of the memory (m)."""
        return self.layers[0][0].shape[1]

    @property
    def bytes(self) -> int:
        """Bytes of the keys and values."""
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)


def prefill(model: MemoryModel, memory: Tensor) -> list[Prefix]:
    """Compute the keys and values of memories `(B, m, d)`."""
    return prefill_inputs(model.backbone, model.prefix(memory))


@torch.no_grad()
def prefill_inputs(backbone: Backbone, inputs: Tensor) -> list[Prefix]:
    """Compute the keys and values of inputs of the backbone, `(B, m, d)`."""
    cache = backbone.new_cache()
    backbone.hidden(inputs, cache=cache)
    layers = backbone.unpack_cache(cache)
    return [
        Prefix([(keys[row].clone(), values[row].clone()) for keys, values in layers])
        for row in range(len(inputs))
    ]


class BatchCache:
    """The key-value cache of `N` rows; `seen` marks the columns that a row has.

    Args:
        model: Backbone, M0 and write side.
        prefixes: The memory of each row.
    """

    def __init__(self, model: MemoryModel, prefixes: Sequence[Prefix]) -> None:
        self.model = model
        self.cache: Cache = model.backbone.new_cache(
            [
                (torch.stack([k for k, _ in layer]), torch.stack([v for _, v in layer]))
                for layer in zip(*(prefix.layers for prefix in prefixes), strict=True)
            ]
        )
        size = prefixes[0].size
        device = model.initial_memory.device
        self.seen = torch.ones(len(prefixes), size, dtype=torch.bool, device=device)  # (N, S)
        self.next_position = torch.full((len(prefixes),), size, device=device)  # (N,)

    def append(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Append at most `T` tokens to each row; return their hidden states `(N, T, d)`.

        A row may get fewer tokens, or none; its hidden states beyond them mean nothing.
        """
        device = self.seen.device
        ids = pad_right(tokens, 0, device=device)  # (N, T)
        lengths = torch.tensor([len(row) for row in tokens], device=device)  # (N,)
        offsets = torch.arange(ids.shape[1], device=device)  # (T,)
        causal = (offsets[None, :] <= offsets[:, None]).expand(len(ids), -1, -1)  # (N, T, T)
        before = self.seen[:, None].expand(-1, len(offsets), -1)  # (N, T, S)
        last = (lengths - 1).clamp(min=0)[:, None]  # (N, 1)
        hidden = self.model.backbone.hidden(
            self.model.backbone.embed(ids),
            mask=torch.cat([before, causal], dim=2)[:, None],
            # Padding repeats the last position: the next may be more than the backbone has.
            positions=self.next_position[:, None] + offsets.minimum(last),
            cache=self.cache,
        )  # (N, T, d)
        self.seen = torch.cat([self.seen, offsets < lengths[:, None]], dim=1)
        self.next_position = self.next_position + lengths
        return hidden

    def keep(self, indices: list[int]) -> None:
        """Drop all other rows."""
        rows = torch.tensor(indices, dtype=torch.long, device=self.seen.device)
        self.cache.batch_select_indices(rows)
        self.seen, self.next_position = self.seen[rows], self.next_position[rows]

    def join(self, other: "BatchCache") -> None:
        """Append the rows of another batch."""
        self._close_gaps()
        columns = max(self.seen.shape[1], other.seen.shape[1])
        backbone = self.model.backbone
        pairs = zip(
            backbone.unpack_cache(self.cache), backbone.unpack_cache(other.cache), strict=True
        )
        self.cache = backbone.new_cache(
            [
                (_stack(mine[0], theirs[0], columns), _stack(mine[1], theirs[1], columns))
                for mine, theirs in pairs
            ]
        )
        seen = [F.pad(part.seen, (0, columns - part.seen.shape[1])) for part in (self, other)]
        self.seen = torch.cat(seen)
        self.next_position = torch.cat([self.next_position, other.next_position])

    def _close_gaps(self) -> None:
        """Move the columns of every row to the left, and drop those that no row has."""
        columns = int(self.seen.sum(dim=1).max())
        if columns == self.seen.shape[1]:
            return
        # Keys contain their position, so their place among the columns does not matter.
        order = self.seen.byte().argsort(dim=1, descending=True, stable=True)[:, :columns]
        index = order[:, None, :, None]  # (N, 1, S, 1)
        self.cache = self.model.backbone.new_cache(
            [
                (keys.take_along_dim(index, dim=2), values.take_along_dim(index, dim=2))
                for keys, values in self.model.backbone.unpack_cache(self.cache)
            ]
        )
        self.seen = self.seen.gather(1, order)


def _stack(upper: Tensor, lower: Tensor, columns: int) -> Tensor:
    """Stack keys or values `(N, h, S, w)` of two batches, padded to a number of columns."""
    return torch.cat([F.pad(x, (0, 0, 0, columns - x.shape[2])) for x in (upper, lower)])
