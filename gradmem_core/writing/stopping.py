"""Stopping rules of WRITE: after each step they decide whether another is worth its time.

A new rule is a class like `AutomaticStop`. Rules know nothing of the model, so that the service's
engine, which interleaves the steps of many documents, uses them as `write_until_settled` does.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from gradmem_core.limits import check_steps
from gradmem_core.model import MemoryModel
from gradmem_core.writing.descent import (
    check_finite,
    score_reconstruction,
    take_gradient_step,
    write,
)

SETTLED = 0.02
"Least decrease of a sample's loss in a step, as a share of its first loss, to go on."

Snapshot = TypeVar("Snapshot")
"The result of a step, for instance the memory."


class AutomaticStop(Generic[Snapshot]):
    """Stops when a step lowers the loss by less than a share of the first loss; keeps the best.

    Args:
        start: Loss before the first step.
        max_steps: Most steps, at least 1.
        tolerance: Least decrease of the loss in a step, as a share of `start`, 0 to 1.
    """

    best: Snapshot
    "Result of the step with the lowest loss; set by the first step."
    loss: float
    "Loss after that step."

    def __init__(self, start: float, max_steps: int, *, tolerance: float = SETTLED) -> None:
        self._start = start
        self._max_steps = max_steps
        self._tolerance = tolerance
        self.steps = 0
        "Steps so far."

    def update(self, loss: float, snapshot: Snapshot) -> bool:
        """Record a step; return whether another is worth making.

        Args:
            loss: Loss after the step.
            snapshot: Result of the step.
        """
        before = self.loss if self.steps else self._start
        if not self.steps or loss < before:
            self.best, self.loss = snapshot, loss
        self.steps += 1
        helped = before - loss > self._tolerance * self._start
        return helped and self.steps < self._max_steps


@dataclass(frozen=True)
class SettledBatch:
    """The memories of a batch of contexts, each written with as many steps as helped."""

    memory: Tensor
    "The memories, float32 `(B, m, d)`."
    losses: Tensor
    "Loss of each memory, nats per token, `(B,)`."
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

    Each sample stops on its own, see `AutomaticStop`, and leaves the batch.

    Args:
        model: Backbone, M0 and write side.
        context_ids: Token ids, `(B, T)`, padded on the right with any id.
        lengths: Tokens of each context, `(B,)`.
        max_steps: Most gradient steps, from 1 to the configuration's `max_write_steps`.
        tolerance: Least decrease of the loss in a step, as a share of the first loss, 0 to 1.

    Raises:
        EmptyContextError: A context has no tokens.
        ContextTooLongError: A context is longer than the checkpoint was trained for.
        WriteStepsError: `max_steps` is out of range.
        NonFiniteLossError: A loss or a memory became infinite or NaN.
    """
    check_steps(model.config, max_steps)
    first = write(model, context_ids, lengths, 1, create_graph=False)
    before, after = first.losses.T.tolist()
    stops = [AutomaticStop[Tensor](loss, max_steps, tolerance=tolerance) for loss in before]
    memory = first.memory.clone()
    running = [i for i, stop in enumerate(stops) if stop.update(after[i], first.memory[i])]
    while running:
        part = (context_ids[running], lengths[running])
        memory[running], _ = take_gradient_step(model, memory[running], *part)
        losses = score_reconstruction(model, memory[running], *part).loss
        results = zip(running, losses.tolist(), memory[running], strict=True)
        running = [i for i, loss, snapshot in results if stops[i].update(loss, snapshot)]
    settled = SettledBatch(
        torch.stack([stop.best for stop in stops]),
        first.losses.new_tensor([stop.loss for stop in stops]),
        lengths.new_tensor([stop.steps for stop in stops]),
    )
    check_finite(settled.memory, settled.losses[:, None])
    return settled
