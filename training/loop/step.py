"""One optimizer step: draw micro-batches, sum their gradients, update the weights."""

import math
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean

import torch

from gradmem_core.errors import NonFiniteLossError
from training.loop.curriculum import draw_write_steps
from training.loop.feed import Feed, Place, count_steps_ahead
from training.loop.gradient import MicroBatch, StepGradient
from training.loop.loss import Outcome, clip_gradient
from training.loop.optimizers import compute_rate_factor, set_rates
from training.loop.parallel import Processes
from training.loop.state import RunState

SKIPPED_IN_A_ROW = 20
"Steps in a row that may diverge before the run ends."


@dataclass(frozen=True)
class MicroBatchResult:
    """A micro-batch after its gradient was computed."""

    size: int
    "Size of its contexts."
    contexts: int
    "Number of contexts."
    tokens: int
    "Tokens of the contexts."
    outcome: Outcome
    "Its losses, without their graph."


@dataclass(frozen=True)
class StepResult:
    """An optimizer step that was made."""

    outcomes: list[Outcome]
    "Of its micro-batches, without their graphs."
    gradient_norm: float
    "Norm of the whole gradient before it was clipped."
    rate_factor: float
    "Share of their full value that the learning rates had."

    @property
    def loss(self) -> float:
        """The mean outer loss."""
        return fmean(float(outcome.loss) for outcome in self.outcomes)


class Stepper:
    """Makes the optimizer steps of a run, together with the other processes.

    Args:
        state: The run; its weights and counters change with every step.
        gradient: Computes the gradient of micro-batches.
        processes: The processes that share each step.
        device: This process's device.
    """

    def __init__(
        self,
        state: RunState,
        gradient: StepGradient,
        processes: Processes,
        device: torch.device,
    ) -> None:
        self._recipe = state.recipe
        self._state = state
        self._gradient = gradient
        self._processes = processes
        self._device = device
        self._skipped_in_a_row = 0

    def make_step(self, feed: Feed) -> StepResult | None:
        """Make one optimizer step; None where it diverged and was skipped.

        Raises:
            NonFiniteLossError: Too many steps in a row diverged.
            OutOfMemoryError: The device has no memory for a single context.
        """
        state, settings = self._state, self._recipe.optimizer
        results = self.sum_gradients(feed)
        norm = clip_gradient(state.model, settings.gradient_clip) if results else math.nan
        if not math.isfinite(norm):
            self._skip()
            return None
        self._skipped_in_a_row = 0
        factor = compute_rate_factor(settings, state.step, state.spent)
        set_rates(state.optimizers, factor)
        for optimizer in state.optimizers:
            optimizer.step()
        state.average.update()
        state.step += 1
        return StepResult([result.outcome for result in results], norm, factor)

    def sum_gradients(self, feed: Feed) -> list[MicroBatchResult]:
        """Sum the gradients of a step's micro-batches over all processes, and count them.

        Returns:
            The micro-batches in their order; none if any diverged.
        """
        shares = self._processes.gather(self._compute(feed))
        finished = [share for share in shares if share is not None]
        if len(finished) < len(shares):
            return []
        self._processes.sum_gradients(self._state.model)
        results = [result for turn in zip(*finished, strict=True) for result in turn]
        self._state.tokens += sum(result.tokens for result in results)
        self._state.contexts += sum(result.contexts for result in results)
        self._advance(results)
        return results

    def warm_up(self, feed: Feed) -> None:
        """Compute gradients that nobody uses, so that the device compiles and allocates now."""
        self._expect(feed)
        (place, *_) = self.place_micro_batches(self._state.attempt)
        parts = feed.take(place, self._device)
        for steps in {*self._recipe.extreme_write_steps}:
            with suppress(NonFiniteLossError):
                self._gradient.compute([MicroBatch(parts, steps)], share=1.0)
        self._state.model.zero_grad()

    def place_micro_batches(self, attempt: int) -> list[Place]:
        """Return the places of this process's micro-batches in a step."""
        recipe, progress = self._recipe, self._state.progress
        indices = range(self._processes.rank, recipe.batch.count, self._processes.count)
        if recipe.curriculum is None:
            return [Place(attempt, index, 0) for index in indices]
        return [
            Place(
                attempt,
                index,
                progress.draw_size(recipe.curriculum, recipe.seed, attempt, index),
            )
            for index in indices
        ]

    def _compute(self, feed: Feed) -> list[MicroBatchResult] | None:
        """Compute the gradients of this process's micro-batches; None if any diverged."""
        recipe, state = self._recipe, self._state
        places = self.place_micro_batches(state.attempt)
        self._expect(feed)
        micro_batches = [
            MicroBatch(
                feed.take(place, self._device),
                draw_write_steps(recipe, state.spent, place.attempt, place.index),
            )
            for place in places
        ]
        try:
            outcomes = self._gradient.compute(micro_batches, share=1 / recipe.batch.count)
        except NonFiniteLossError:
            return None
        return [
            MicroBatchResult(place.size, micro_batch.contexts, micro_batch.tokens, outcome)
            for place, micro_batch, outcome in zip(places, micro_batches, outcomes, strict=True)
        ]

    def _expect(self, feed: Feed) -> None:
        """Let the contexts of this step and the next ones be drawn."""
        attempt = self._state.attempt
        ahead = range(attempt, attempt + count_steps_ahead(self._recipe))
        feed.expect([place for later in ahead for place in self.place_micro_batches(later)])

    def _advance(self, results: list[MicroBatchResult]) -> None:
        """Record the micro-batches of the stage's size, until the next stage starts."""
        curriculum, progress = self._recipe.curriculum, self._state.progress
        if curriculum is None:
            return
        size = progress.size(curriculum)
        for result in results:
            if result.size == size and progress.record(curriculum, result.outcome.exact_match):
                break
        progress.follow_budget(curriculum, self._state.spent)

    def _skip(self) -> None:
        self._state.skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= SKIPPED_IN_A_ROW:
            raise NonFiniteLossError(
                f"{SKIPPED_IN_A_ROW} steps in a row diverged; lower the learning rates",
                samples=[],
            )
