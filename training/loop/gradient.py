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
from training.loop.device_memory import DeviceMemory
from training.loop.loss import Outcome, clip_separately, outer_loss
from training.recipes.schema import Recipe
from training.writers import Writer
from training.writers.gradmem import GradMem


@dataclass(frozen=True)
class MicroBatch:
    """Contexts of an optimizer step that are written with the same number of steps."""

    parts: list[Batch]
    "Batches of contexts of similar length."
    write_steps: int
    "Write steps (K); 0 reads from the contexts themselves."

    @property
    def contexts(self) -> int:
        """Number of contexts."""
        return sum(len(part.lengths) for part in self.parts)

    @property
    def tokens(self) -> int:
        """Tokens of the contexts."""
        return sum(int(part.lengths.sum()) for part in self.parts)


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
        self._memory = DeviceMemory(
            cast("Backbone", self._model.backbone),
            memory_tokens,
            recipe.recompute,
            dtype=dtype,
            device=self._device,
        )

    def compute(self, micro_batches: Sequence[MicroBatch], share: float) -> list[Outcome]:
        """Set the parameters' gradients to those of some micro-batches, each scaled by `share`.

        Where the device has no memory for a batch, all are tried again in smaller pieces.

        Returns:
            The losses of each micro-batch, without their graph.

        Raises:
            NonFiniteLossError: WRITE diverged.
            OutOfMemoryError: The device has no memory for a single context.
        """
        while True:
            self._begin()
            try:
                outcomes = [self._add(micro_batch, share) for micro_batch in micro_batches]
            except _TooLargeError as error:
                batch, steps = error.batch, error.steps
            else:
                self._push()
                return outcomes
            # The exception is gone by here, and with it the graphs that its frames held.
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            self._memory.shrink(batch, steps)

    def _begin(self) -> None:
        """Forget all gradients, and take the parameters as they are now."""
        self._model.zero_grad()
        if self._joined is not None:
            self._joined.refresh()

    def _push(self) -> None:
        """Pass the gradients of joined weights on to the parameters that they were made of."""
        if self._joined is not None:
            self._joined.push()

    def _add(self, micro_batch: MicroBatch, share: float) -> Outcome:
        """Add the gradient of a micro-batch."""
        limit = self._recipe.optimizer.micro_batch_clip
        with clip_separately(self._model, None if limit is None else share * limit):
            outcomes = [
                self._add_part(part, micro_batch.write_steps, share) for part in micro_batch.parts
            ]
            if limit is not None:
                self._push()
        return reduce(add, outcomes)

    def _add_part(self, part: Batch, steps: int, share: float) -> Outcome:
        outcomes = []
        for batch, recompute in self._memory.split(part, steps):
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
    """Carries the batch that the device has no memory for."""

    def __init__(self, batch: Batch, steps: int) -> None:
        super().__init__()
        self.batch = batch
        self.steps = steps
