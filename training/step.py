"""One micro-batch: WRITE, READ, and the gradient of the outer loss through both."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gradmem_core.model import MemoryModel
from gradmem_core.read import read
from gradmem_core.write import write
from training.batch import IGNORED, Batch


@dataclass(frozen=True)
class Outcome:
    """What a micro-batch gave."""

    loss: Tensor
    "The outer loss, with its graph."
    target_loss: float
    "Cross-entropy of the targets, nats per token."
    write_loss: float
    "Reconstruction loss before the last write step, nats per token."
    exact_match: float
    "Share of the queries whose target tokens are all predicted, teacher-forced."


def outer_loss(
    model: MemoryModel, batch: Batch, *, steps: int, write_loss_weight: float
) -> Outcome:
    """The loss that meta-training minimises (arXiv 2603.13875): READ's, through K write steps.

    Args:
        model: The model in training.
        batch: Contexts with their questions.
        steps: Write steps (K).
        write_loss_weight: Weight of the reconstruction loss before the last step.
    """
    written = write(
        model, batch.context_ids, batch.lengths, steps, create_graph=True, measure=False
    )
    logits = read(model, written.memory, batch.query_ids)[:, :, :-1]  # (B, Q, T, V)
    target_loss = F.cross_entropy(
        logits.flatten(0, 2), batch.labels.flatten(), ignore_index=IGNORED
    )
    write_loss = written.losses[:, -1].mean()
    return Outcome(
        loss=target_loss + write_loss_weight * write_loss,
        target_loss=float(target_loss.detach()),
        write_loss=float(write_loss.detach()),
        exact_match=teacher_forced_match(logits.detach(), batch.labels),
    )


def teacher_forced_match(logits: Tensor, labels: Tensor) -> float:
    """Share of the queries `(B, Q)` whose labels are all the likeliest tokens."""
    right = (logits.argmax(dim=-1) == labels) | (labels == IGNORED)  # (B, Q, T)
    return float(right.all(dim=-1).float().mean())


def token_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of the labelled tokens that are the likeliest."""
    scored = labels != IGNORED
    return float((logits.argmax(dim=-1) == labels)[scored].float().mean())


def gradient_norm(model: MemoryModel, limit: float) -> float:
    """Clip the whole gradient to a norm and return what it was before."""
    return float(torch.nn.utils.clip_grad_norm_(model.parameters(), limit))
