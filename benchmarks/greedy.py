"""Greedy decoding of a batch on the device alone: no stop tokens, sampling or calibration."""

import torch
from torch import Tensor

from gradmem_core.backbone import Backbone, Cache


@torch.no_grad()
def decode_greedily(backbone: Backbone, inputs: Tensor, cache: Cache, *, tokens: int) -> Tensor:
    """Return the likeliest tokens after some vectors, one by one, `(B, tokens)`.

    Args:
        backbone: The model that decodes.
        inputs: Vectors, `(B, T, d)`.
        cache: Keys and values of what stands before them; grows by all but the last token.
        tokens: Number of tokens, from 1.
    """
    decoded: list[Tensor] = []
    while len(decoded) < tokens:
        hidden = backbone.hidden(inputs, cache=cache)
        decoded.append(backbone.logits(hidden[:, -1]).argmax(dim=-1))
        inputs = backbone.embed(decoded[-1][:, None])
    return torch.stack(decoded, dim=1)
