"""WRITE as one would first write it: what benchmarks hold ours against."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradmem_core.model import MemoryModel


def unrolled_steps(
    model: MemoryModel, memory: Tensor, context_ids: Tensor, lengths: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Make gradient steps on unfused attention, keeping the graph of every one.

    Args:
        model: Backbone, M0 and write side; its `inner_gradient_clip` is left out.
        memory: Where the steps start, `(B, m, d)`, with a gradient.
        context_ids: `(B, T)`, padded on the right with any id.
        lengths: `(B,)`.
        steps: Gradient steps (K), at least 1.

    Returns:
        The memories `(B, m, d)` and the losses before the last step `(B,)`, with their graphs.
    """
    size = model.config.memory_tokens
    places = torch.arange(context_ids.shape[1], device=context_ids.device)
    shares = (places < lengths[:, None]) / lengths[:, None]  # (B, T)
    embedded = model.backbone.embed(context_ids)  # (B, T, d)
    with sdpa_kernel(SDPBackend.MATH):
        for _ in range(steps):
            inputs = torch.cat([model.prefix(memory), embedded], dim=1)
            with model.backbone.writing():
                hidden = model.backbone.hidden(inputs)
            logits = model.write_logits(hidden[:, size - 1 : -1])  # (B, T, V)
            losses = F.cross_entropy(logits.mT, context_ids, reduction="none")  # (B, T)
            weights = shares * model.token_weights(hidden[:, size:])
            (gradient,) = torch.autograd.grad(losses, memory, weights, create_graph=True)
            memory = memory - model.inner_learning_rate() * gradient
    return memory, (losses * shares).sum(dim=1)
