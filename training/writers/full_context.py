"""The full-context transformer: nothing is compressed, the state is the KV cache."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gradmem_core.backbone import Backbone
from training.writers.base import Limits, State, Writer, WriteSteps
from training.writers.rmt import forward_passes


class FullContextModel(nn.Module):
    """A backbone and nothing else.

    Args:
        backbone: The causal language model.
        config: The limits.
    """

    def __init__(self, backbone: Backbone, config: Limits) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config


@dataclass(frozen=True)
class FullContext(Writer):
    """Queries are read after the whole context.

    The state is counted as the keys and values of the context's tokens. It is held as token ids and
    computed again with the queries, which gives the same numbers.
    """

    kind: ClassVar[str] = "full-context"
    model: FullContextModel

    def write(
        self,
        context_ids: Tensor,
        lengths: Tensor,
        steps: WriteSteps,
        *,
        train: bool,  # noqa: ARG002 (reading keeps the graph)
    ) -> State:
        """Make states of contexts (see `Writer.write`)."""
        forward_passes(steps, most=1)
        cached = int(lengths.max()) * self.model.backbone.cache_elements_per_token
        return State((context_ids, lengths), floats=cached)

    def read(self, state: State, query_ids: Tensor) -> Tensor:
        """Score what follows each token (see `Writer.read`)."""
        context_ids, lengths = state.tensors
        batch, queries, tokens = query_ids.shape
        joined = torch.cat([context_ids, query_ids.flatten(1)], dim=1)  # (B, T + Q * t)
        mask, positions = _after(lengths, context_ids.shape[1], queries, tokens)
        backbone = self.model.backbone
        hidden = backbone.hidden(backbone.embed(joined), mask=mask, positions=positions)
        asked = hidden[:, context_ids.shape[1] :].view(batch, queries, tokens, -1)
        return backbone.logits(asked)


def _after(lengths: Tensor, context: int, queries: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Mask `(B, 1, S, S)` and positions `(B, S)`: every query stands right after its context."""
    device = lengths.device
    owner = torch.arange(queries, device=device).repeat_interleave(tokens)
    owner = torch.cat([torch.full((context,), -1, device=device), owner])  # -1 is the context
    place = torch.arange(len(owner), device=device)
    real = (owner != -1) | (place < lengths[:, None])  # (B, S)
    seen = (place[:, None] >= place) & ((owner == -1) | (owner[:, None] == owner))  # (S, S)
    own = torch.arange(tokens, device=device).repeat(queries)  # place within its query
    positions = torch.cat([place[:context].expand(len(lengths), -1), lengths[:, None] + own], dim=1)
    itself = place[:, None] == place
    return ((seen & real[:, None]) | itself)[:, None], positions
