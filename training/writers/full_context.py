"""The full-context transformer: nothing is compressed; the state is the KV cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import ClassVar

import torch
from torch import Tensor, nn

from gradmem_core.backbone import Backbone
from gradmem_core.padding import pad_right
from training.writers.base import LengthLimits, Writer, WriterState, WriteSteps
from training.writers.rmt import check_passes


class FullContextModel(nn.Module):
    """A backbone and nothing else.

    Args:
        backbone: The causal language model.
        config: The limits.
    """

    def __init__(self, backbone: Backbone, config: LengthLimits) -> None:
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
    ) -> WriterState:
        """Write contexts (see `Writer.write`)."""
        check_passes(steps, most=1)
        cached = int(lengths.max()) * self.model.backbone.cache_elements_per_token
        return WriterState((context_ids, lengths), floats=cached)

    def hidden(self, state: WriterState, query_ids: Tensor) -> Tensor:
        """Run queries through the backbone (see `Writer.hidden`)."""
        context_ids, lengths = state.tensors
        batch, queries, tokens = query_ids.shape
        joined = torch.cat([context_ids, query_ids.flatten(1)], dim=1)  # (B, T + Q * t)
        mask, positions = _mask_after(lengths, context_ids.shape[1], queries, tokens)
        backbone = self.model.backbone
        hidden = backbone.hidden(backbone.embed(joined), mask=mask, positions=positions)
        return hidden[:, context_ids.shape[1] :].view(batch, queries, tokens, -1)

    @torch.no_grad()
    def answer(
        self,
        state: WriterState,
        queries: Sequence[Sequence[list[int]]],
        *,
        max_tokens: int,
        stop_ids: Sequence[int],
    ) -> list[list[list[int]]]:
        """Continue queries greedily (see `Writer.answer`), by transformers and its cache."""
        context_ids, lengths = state.tensors
        prompts = [
            context_ids[row, :length].tolist() + query
            for row, (length, of_context) in enumerate(zip(lengths, queries, strict=True))
            for query in of_context
        ]
        backwards = pad_right([prompt[::-1] for prompt in prompts], 0, device=self.device)
        size = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        real = torch.arange(backwards.shape[1], device=self.device) < size[:, None]
        joined = self.model.backbone.causal_lm.generate(  # type: ignore[operator]
            backwards.flip(1),
            attention_mask=real.flip(1).long(),
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=list(stop_ids),
            pad_token_id=stop_ids[0],
        )
        generated = joined[:, backwards.shape[1] :].tolist()  # B * Q rows
        answers = [list(takewhile(lambda token: token not in stop_ids, row)) for row in generated]
        each = len(queries[0])
        return [answers[start : start + each] for start in range(0, len(answers), each)]


def _mask_after(lengths: Tensor, context: int, queries: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Build mask `(B, 1, S, S)` and positions `(B, S)`: each query follows its context directly."""
    device = lengths.device
    owner = torch.arange(queries, device=device).repeat_interleave(tokens)
    owner = torch.cat([torch.full((context,), -1, device=device), owner])  # -1 is the context
    place = torch.arange(len(owner), device=device)
    real = (owner != -1) | (place < lengths[:, None])  # (B, S)
    visible = (place[:, None] >= place) & ((owner == -1) | (owner[:, None] == owner))  # (S, S)
    own = torch.arange(tokens, device=device).repeat(queries)  # place within its query
    positions = torch.cat([place[:context].expand(len(lengths), -1), lengths[:, None] + own], dim=1)
    itself = place[:, None] == place
    return ((visible & real[:, None]) | itself)[:, None], positions
