"""Ways to make a training step, for timing them side by side.

Shapes: `B` contexts, `Q` queries of each, `T` tokens, `m` memory vectors, `d` width, `V`
vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.speed.plain import PlainStep
from benchmarks.speed.unrolled import unrolled_steps
from gradmem_core.model import MemoryModel
from training.llama.joined import JoinedModel, can_join
from training.loop.batch import IGNORED, Batch
from training.loop.loss import outer_loss
from training.writers.gradmem import GradMem


@dataclass(frozen=True)
class Setting:
    """The work of a step, the same in every way of making it."""

    write_steps: int
    "Write steps (K)."
    write_loss_weight: float
    "Weight of the reconstruction loss before the last of them."
    dtype: torch.dtype = torch.float32
    "Dtype that the backbone computes in."


Step = Callable[[Batch], None]
"Adds a batch's gradient to the parameters'."
Implementation = Callable[[MemoryModel, Setting], Step]


def straightforward(model: MemoryModel, setting: Setting) -> Step:
    """Make the step as first written: nothing packed, torch's own differentiation."""

    def step(batch: Batch) -> None:
        size, ids = model.config.memory_tokens, batch.context_ids
        start = model.initial_memory.expand(len(ids), -1, -1)  # (B, m, d)
        memory, losses = unrolled_steps(model, start, ids, batch.lengths, setting.write_steps)
        with sdpa_kernel(SDPBackend.MATH):
            query_ids = batch.query_ids.flatten(0, 1)  # (B * Q, T)
            prefix = model.prefix(memory).repeat_interleave(batch.query_ids.shape[1], dim=0)
            inputs = torch.cat([prefix, model.backbone.embed(query_ids)], dim=1)
            answers = model.backbone.logits(model.backbone.hidden(inputs)[:, size:-1])
        labels = batch.labels[:, :, 1:].flatten()
        loss = F.cross_entropy(answers.flatten(0, 1), labels, ignore_index=IGNORED)
        loss = loss + setting.write_loss_weight * losses.mean()
        loss.backward()  # type: ignore[no-untyped-call]

    return step


def plain(model: MemoryModel, setting: Setting) -> Step:
    """Make the step of merged weights in plain torch (see `PlainStep`)."""
    steps = PlainStep(model, setting.dtype)

    def step(batch: Batch) -> None:
        steps.gradient(batch, setting.write_steps, setting.write_loss_weight)

    return step


def ordinary(model: MemoryModel, setting: Setting, *, recompute: bool = False) -> Step:
    """Make our step on the ordinary model, adapters beside its layers."""
    exact = setting.dtype == torch.float32
    writer = GradMem(model, recompute=recompute)

    def step(batch: Batch) -> None:
        model.backbone.autocast = None if exact else setting.dtype
        _differentiate(writer, batch, setting)

    return step


def fast(model: MemoryModel, setting: Setting, *, recompute: bool = False) -> Step:
    """Make our step on joined, merged weights (see `JoinedModel`)."""
    joined = JoinedModel(model, setting.dtype)
    writer = GradMem(joined.view, recompute=recompute)

    def step(batch: Batch) -> None:
        joined.refresh()
        _differentiate(writer, batch, setting)
        joined.push()

    return step


def _differentiate(writer: GradMem, batch: Batch, setting: Setting) -> None:
    outcome = outer_loss(
        writer, batch, steps=setting.write_steps, write_loss_weight=setting.write_loss_weight
    )
    outcome.loss.backward()  # type: ignore[no-untyped-call]


IMPLEMENTATIONS: dict[str, Implementation] = {
    "straightforward": straightforward,
    "plain": plain,
    "gradmem": ordinary,
    "gradmem, recompute": partial(ordinary, recompute=True),
    "joined": fast,
    "joined, recompute": partial(fast, recompute=True),
}
"Ways by name; the first that can make a model's step is what the others are held against."


def able(model: MemoryModel, setting: Setting) -> dict[str, Implementation]:
    """Return the implementations that can make a model's step."""
    adapter, exact = model.config.adapter, setting.dtype == torch.float32
    lacking: set[str] = set()
    if model.config.inner_gradient_clip is not None or not exact:
        lacking.add("straightforward")
    if not can_join(model):
        lacking.update(("plain", "joined", "joined, recompute"))
    if model.write_head is not None or (adapter and adapter.phases != "both"):
        lacking.add("plain")
    return {name: make for name, make in IMPLEMENTATIONS.items() if name not in lacking}
