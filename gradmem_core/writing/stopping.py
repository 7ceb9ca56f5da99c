"""When WRITE stops: the rule that says after each step whether another is worth making."""

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from gradmem_core.limits import check_steps
from gradmem_core.model import MemoryModel
from gradmem_core.writing.descent import (
    WrittenBatch,
    check_finite,
    score_reconstruction,
    take_gradient_step,
    write,
)

SETTLED = 0.02
"Share of its first loss by which a step must lower a sample's loss for an automatic stop to go on."

Reached = TypeVar("Reached")
"What an automatic stop chooses from."


class AutomaticStop(Generic[Reached]):
    """Says after each step of a document whether another is worth making, and keeps the best.

    Steps go on while each lowers the loss by more than a share of the loss that the document
    started from.

    Args:
        start: Loss before the first step.
        most_steps: Most steps, at least 1.
        tolerance: By how much a step must lower the loss, as a share of `start`, 0 to 1.
    """

    best: Reached
    "What the step reached after which the loss was lowest; there after the first step."
    loss: float
    "The loss there."

    def __init__(self, start: float, most_steps: int, *, tolerance: float = SETTLED) -> None:
        self._start = start
        self._most_steps = most_steps
        self._tolerance = tolerance
        self.steps = 0
        "Steps that were made."

    def update(self, loss: float, reached: Reached) -> bool:
        """Take in a step: whether another is worth making.

        Args:
            loss: The loss after it.
            reached: What it reached.
        """
        before = self.loss if self.steps else self._start
        if not self.steps or loss < before:
            self.best, self.loss = reached, loss
        self.steps += 1
        helped = before - loss > self._tolerance * self._start
        return helped and self.steps < self._most_steps


@dataclass(frozen=True)
class SettledBatch:
    """What WRITE with an automatic stop returns."""

    memory: Tensor
    "The memories, float32 `(B, m, d)`."
    losses: Tensor
    "Each sample's loss at its memory, nats per token, `(B,)`."
    steps: Tensor
    "Gradient steps computed for each sample, `(B,)`."


def write_until_settled(
    model: MemoryModel,
    context_ids: Tensor,
    lengths: Tensor,
    max_steps: int,
    *,
    tolerance: float = SETTLED,
) -> SettledBatch:
    """Compress contexts with as many steps as still help.

    A sample stops on its own when a step lowered its loss by less than `tolerance` of the loss that
    it started from, and keeps the better memory of the last two. What stopped leaves the batch.

    Args:
        model: Backbone, M0 and write side.
        context_ids: `(B, T)`, padded on the right with any id.
        lengths: `(B,)`.
        max_steps: Most gradient steps, from 1 to the configuration's `max_write_steps`.
        tolerance: By how much a step must lower the loss, as a share of the first loss, 0 to 1.

    Raises:
        EmptyContextError: A context has no token.
        ContextTooLongError: A context is longer than the checkpoint was trained for.
        WriteStepsError: `max_steps` is out of range.
        NonFiniteLossError: A loss or a memory became infinite or NaN.
    """
    check_steps(model.config, max_steps)
    first = write(model, context_ids, lengths, 1, create_graph=False)
    before, after = first.losses.T.tolist()
    stops = [AutomaticStop[Tensor](loss, max_steps, tolerance=tolerance) for loss in before]
    memory = first.memory.clone()
    going = [i for i, stop in enumerate(stops) if stop.update(after[i], first.memory[i])]
    while going:
        part = (context_ids[going], lengths[going])
        moved, _ = take_gradient_step(model, memory[going], *part)
        losses, _ = score_reconstruction(model, moved, *part)
        memory[going] = moved
        reached = zip(going, losses.tolist(), moved, strict=True)
        going = [i for i, loss, of_sample in reached if stops[i].update(loss, of_sample)]
    settled = SettledBatch(
        torch.stack([stop.best for stop in stops]),
        first.losses.new_tensor([stop.loss for stop in stops]),
        lengths.new_tensor([stop.steps for stop in stops]),
    )
    check_finite(WrittenBatch(settled.memory, settled.losses[:, None], None))
    return settled
