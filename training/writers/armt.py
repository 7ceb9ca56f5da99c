"""ARMT: RMT with an associative matrix in every layer.

Associative Recurrent Memory Transformer, Rodkin et al., arXiv 2407.04841, section 2: after a layer,
the memory vectors that follow the context write into the layer's matrix by the delta rule; before a
layer, every token reads from it. Keys go through DPFP features (Schlag et al., arXiv 2102.11174,
section 5.3). Shapes: `B` contexts, `S` tokens, `m` memory vectors, `d` width, `f` features.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from gradmem_core.backbone import Backbone
from gradmem_core.reading.scoring import read_hidden
from training.writers.base import Writer, WriterState, WriteSteps
from training.writers.rmt import RmtConfig, RmtModel, check_passes, mask_around

SHIFTS = 3
"DPFP's nu: products of features with their neighbours up to this far away."
TINY = 1e-5
"Keeps the reading of an empty matrix finite."

Store: TypeAlias = tuple[Tensor, Tensor]
"A layer's matrix `(B, d, f)` and the sum of the keys in it `(B, f)`."


class ArmtConfig(RmtConfig):
    """The configuration of an ARMT memory."""

    associative_width: int = Field(default=64, ge=1)
    "Width of keys and queries of the associative matrices, before their features."


class Association(nn.Module):
    """Writes and reads the associative matrix of a layer.

    Args:
        width: Width of the hidden states.
        key_width: Width of keys and queries.
    """

    def __init__(self, width: int, key_width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, key_width, bias=False)
        self.key = nn.Linear(width, key_width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, 1)
        nn.init.zeros_(self.value.weight)  # at the start nothing is stored

    def empty(self, batch: int) -> Store:
        """Return a matrix that holds nothing."""
        features = 2 * SHIFTS * self.key.out_features
        weight = self.value.weight
        return weight.new_zeros(batch, len(weight), features), weight.new_zeros(batch, features)

    def recall(self, hidden: Tensor, store: Store) -> Tensor:
        """Look up hidden states `(B, S, d)`; the result has the same shape."""
        return _lookup(dpfp_features(self.query(hidden)), store)

    def update(self, memory: Tensor, store: Store) -> Store:
        """Write memory vectors `(B, m, d)` by the delta rule, all on top of the same matrix."""
        matrix, keys = store
        feature = dpfp_features(self.key(memory))  # (B, m, f)
        change = self.value(memory) - _lookup(feature, store)  # (B, m, d)
        change = torch.sigmoid(self.gate(memory)) * change
        overlap = (feature @ keys[:, :, None]) / (feature.square().sum(-1, keepdim=True) + TINY)
        return matrix + change.mT @ feature, keys + ((1 - overlap) * feature).sum(dim=1)


class ArmtModel(RmtModel):
    """The parameters of RMT with an association for each layer."""

    def __init__(self, backbone: Backbone, config: ArmtConfig, *, seed: int) -> None:
        super().__init__(backbone, config, seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.associations = nn.ModuleList(
                Association(backbone.width, config.associative_width) for _ in backbone.layers
            )


@dataclass(frozen=True)
class Armt(Writer):
    """Keeps the associative matrices; reading starts from the initial memory."""

    kind: ClassVar[str] = "armt"
    model: ArmtModel

    def write(
        self, context_ids: Tensor, lengths: Tensor, steps: WriteSteps, *, train: bool
    ) -> WriterState:
        """Write contexts (see `Writer.write`)."""
        model = self.model
        passes = check_passes(steps, model.config.max_write_steps)
        batch, size = len(context_ids), model.config.memory_tokens
        with torch.set_grad_enabled(train):
            mask, positions = mask_around(lengths, context_ids.shape[1], size)
            memory = model.write_projection(model.initial_memory.expand(batch, -1, -1))
            embedded = model.backbone.embed(context_ids)
            inputs = torch.cat([memory, embedded, memory], dim=1)  # (B, m + T + m, d)
            stores = [association.empty(batch) for association in self._associations]
            for _ in range(passes):
                with self._associate(stores, written=size):
                    model.backbone.hidden(inputs, mask=mask, positions=positions)
        tensors = tuple(tensor for store in stores for tensor in store)
        return WriterState(tensors, sum(tensor[0].numel() for tensor in tensors))

    def hidden(self, state: WriterState, query_ids: Tensor) -> Tensor:
        """Run queries through the backbone (see `Writer.hidden`)."""
        stores = list(zip(state.tensors[::2], state.tensors[1::2], strict=True))
        memory = self.model.initial_memory.expand(len(query_ids), -1, -1)
        with self._associate(stores, written=0):
            return read_hidden(self.model, memory, query_ids)[:, :, 1:]

    @property
    def _associations(self) -> Sequence[Association]:
        return cast("Sequence[Association]", self.model.associations)

    @contextmanager
    def _associate(self, stores: list[Store], *, written: int) -> Iterator[None]:
        """Let layers read their stores, and the last `written` vectors of each write them anew."""
        handles = []
        for index, layer in enumerate(self.model.backbone.layers):
            handles.append(layer.register_forward_pre_hook(self._read_hook(stores, index)))
            if written:
                handles.append(
                    layer.register_forward_hook(self._write_hook(stores, index, written))
                )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _read_hook(self, stores: list[Store], index: int) -> Callable[..., Any]:
        association = self._associations[index]

        def read_store(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            hidden, *others = arguments
            return hidden + association.recall(hidden, stores[index]), *others

        return read_store

    def _write_hook(self, stores: list[Store], index: int, size: int) -> Callable[..., Any]:
        association = self._associations[index]

        def write_store(_: nn.Module, __: Any, output: Tensor) -> None:  # noqa: ANN401
            stores[index] = association.update(output[:, -size:], stores[index])

        return write_store


def dpfp_features(keys: Tensor) -> Tensor:
    """Compute DPFP features, none negative: `(..., w)` → `(..., 2 * SHIFTS * w)`."""
    both = torch.cat([keys.relu(), (-keys).relu()], dim=-1)
    return torch.cat([both * both.roll(shift, dims=-1) for shift in range(1, SHIFTS + 1)], dim=-1)


def _lookup(feature: Tensor, store: Store) -> Tensor:
    """Return the values `(B, S, d)` of features `(B, S, f)`, normalised by the keys' sum."""
    matrix, keys = store
    return (feature @ matrix.mT) / (feature @ keys[:, :, None] + TINY)
