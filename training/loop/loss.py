"""The outer loss of a batch, through WRITE and READ, and its gradient's norm."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.loop.batch import IGNORED, Batch
from training.writers import Writer
from training.writers.baselines import build_baseline
from training.writers.full_context import FullContext


@dataclass(frozen=True)
class Outcome:
    """The losses of a batch; those of the parts of a micro-batch sum up to the whole's."""

    loss: Tensor
    "The outer loss, with its graph."
    target_loss: float
    "Cross-entropy of the targets, nats per token."
    write_loss: float
    "Reconstruction loss before the last write step, nats per token; NaN where there is none."
    exact_match: float
    "Share of the queries whose target tokens are all predicted, teacher-forced."

    def __add__(self, other: "Outcome") -> "Outcome":
        return Outcome(
            self.loss + other.loss,
            self.target_loss + other.target_loss,
            self.write_loss + other.write_loss,
            self.exact_match + other.exact_match,
        )


def outer_loss(writer: Writer, batch: Batch, *, steps: int, write_loss_weight: float) -> Outcome:
    """Compute the loss of READ through the writing, which meta-training minimises.

    Source: arXiv 2603.13875.

    Args:
        writer: The model in training.
        batch: Contexts with their questions; a part of a micro-batch gives its share of each mean.
        steps: Write steps (K); 0 reads from the contexts themselves.
        write_loss_weight: Weight of the reconstruction loss before the last step.
    """
    if steps == 0:
        writer, steps = build_baseline(FullContext.kind, writer), 1
    state = writer.write(batch.context_ids, batch.lengths, steps, train=True)
    hidden = writer.hidden(state, batch.query_ids)[:, :, :-1]  # (B, Q, T - 1, d)
    labels = batch.labels[:, :, 1:]
    scored = labels != IGNORED
    logits = writer.logits(hidden[scored])  # (targets' tokens, V), in place of all tokens'
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    target_loss = batch.share_of_targets * F.cross_entropy(logits, labels[scored])
    loss, write_loss = target_loss, math.nan
    if state.write_loss is not None:
        mean_write_loss = batch.share_of_contexts * state.write_loss.mean()
        loss = target_loss + write_loss_weight * mean_write_loss
        write_loss = float(mean_write_loss.detach())
    right = torch.ones_like(scored)
    right[scored] = logits.argmax(dim=-1) == labels[scored]
    return Outcome(
        loss=loss,
        target_loss=float(target_loss.detach()),
        write_loss=write_loss,
        exact_match=batch.share_of_contexts * float(right.all(dim=-1).float().mean()),
    )


def token_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of the labelled tokens that are the likeliest."""
    scored = labels != IGNORED
    return float((logits.argmax(dim=-1) == labels)[scored].float().mean())


def clip_gradient(model: nn.Module, limit: float) -> float:
    """Clip the whole gradient to a norm; return its norm before."""
    return float(torch.nn.utils.clip_grad_norm_(model.parameters(), limit))


@contextmanager
def clip_separately(model: nn.Module, limit: float | None) -> Iterator[None]:
    """Clip the gradient that is added inside the block to a norm; None does not clip it."""
    if limit is None:
        yield
        return
    before = [(parameter, parameter.grad) for parameter in model.parameters()]
    model.zero_grad()
    yield
    clip_gradient(model, limit)
    for parameter, gradient in before:
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
