"""The gradient of an optimizer step, micro-batch by micro-batch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import cast

import torch

from gradmem_core.backbone import Backbone
from training.llama.joined import JoinedModel, can_join
from training.loop.batch import Batch
from training.loop.feed import MicroBatch
from training.loop.room import Room
from training.loop.step import Outcome, clipped_alone, outer_loss
from training.recipe import Recipe
from training.writers import Writer
from training.writers.gradmem import GradMem


@dataclass(frozen=True)
class Work:
    """A micro-batch and how it is written."""

    parts: MicroBatch
    steps: int
    "Write steps (K); 0 reads from the contexts themselves."


class StepGradient:
    """Computes gradients of the outer loss into a model's parameters.

    Args:
        writer: The model in training, on its device.
        recipe: What is trained.
        memory_tokens: Vectors that stand before a context (m).
    """

    def __init__(self, writer: Writer, recipe: Recipe, memory_tokens: int) -> None:
        dtype = torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32
        self._model = writer.model
        self._device = writer.device
        self._recipe = recipe
        self._joined: JoinedModel | None = None
        if isinstance(writer, GradMem) and can_join(writer.model):
            self._joined = JoinedModel(writer.model, dtype)
            writer = replace(writer, model=self._joined.view)
        self._writer = writer
        self._room = Room(
            cast("Backbone", self._model.backbone),
            memory_tokens,
            recipe.recompute,
            dtype=dtype,
            device=self._device,
        )

    def compute(self, work: Sequence[Work], share: float) -> list[Outcome]:
        """Set the parameters' gradients to those of some micro-batches, each scaled by `share`.

        A batch that finds no memory on the device is tried again in smaller pieces.

        Returns:
            What each micro-batch gave, without its graph.

        Raises:
            NonFiniteLossError: WRITE diverged.
            OutOfMemoryError: There is no memory for a single context.
        """
        while True:
            self._begin()
            try:
                outcomes = [self._add(each, share) for each in work]
            except _TooLargeError as error:
                batch, steps = error.batch, error.steps
            else:
                self._push()
                return outcomes
            # With the exception the graphs are gone that its frames held.
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            self._room.shrink(batch, steps)

    def _begin(self) -> None:
        """Forget all gradients, and take the parameters as they are now."""
        self._model.zero_grad()
        if self._joined is not None:
            self._joined.refresh()

    def _push(self) -> None:
        """Let the parameters have the gradients of what was made of them."""
        if self._joined is not None:
            self._joined.push()

    def _add(self, work: Work, share: float) -> Outcome:
        """Add the gradient of a micro-batch."""
        limit = self._recipe.optimizer.micro_batch_clip
        with clipped_alone(self._model, None if limit is None else share * limit):
            outcomes = [self._add_part(part, work.steps, share) for part in work.parts]
            if limit is not None:
                self._push()
        return reduce(add, outcomes)

    def _add_part(self, part: Batch, steps: int, share: float) -> Outcome:
        outcomes = []
        for batch, recompute in self._room.plan(part, steps):
            try:
                outcomes.append(self._add_batch(batch, steps, share, recompute=recompute))
            except torch.OutOfMemoryError as error:
                raise _TooLargeError(batch, steps) from error
        return reduce(add, outcomes)

    def _add_batch(self, batch: Batch, steps: int, share: float, *, recompute: bool) -> Outcome:
        writer = self._writer
        if isinstance(writer, GradMem):
            writer = replace(writer, recompute=recompute)
        outcome = outer_loss(
            writer, batch, steps=steps, write_loss_weight=self._recipe.write_loss_weight
        )
        (outcome.loss * share).backward()  # type: ignore[no-untyped-call]
        return replace(outcome, loss=outcome.loss.detach().cpu())


class _TooLargeError(Exception):
    """A batch found no memory."""

    def __init__(self, batch: Batch, steps: int) -> None:
        super().__init__()
        self.batch = batch
        self.steps = steps
