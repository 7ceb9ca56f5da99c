"""The meta-training loop."""

import copy
import math
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gradmem_core.checkpoints.folders import remove_scratch
from gradmem_core.errors import DeviceError, NonFiniteLossError, RecipeError
from training.checkpoints.card import model_card
from training.evaluation.scores import evaluate
from training.loop.curriculum import Progress
from training.loop.feed import Feed, Order, steps_ahead
from training.loop.gradient import StepGradient, Work
from training.loop.logbook import Logbook
from training.loop.optim import build_optimizers, rate_factor, set_rates
from training.loop.parallel import device_of, joined
from training.loop.start import load_subject, record_of, start
from training.loop.state import load_state, save_state
from training.loop.step import Outcome, gradient_norm
from training.recipe import Recipe
from training.seeds import stream
from training.writers import WRITERS, Training, Writer, save_writer

CHECKPOINT = "checkpoint"
"The folder of the result in a run's folder."
SKIPPED_IN_A_ROW = 20
COUNTERS = ("step", "contexts", "tokens", "seconds", "skipped")


@dataclass(frozen=True)
class MicroBatchResult:
    """A micro-batch after its gradient was computed."""

    size: int
    "Size of its contexts."
    contexts: int
    "Their number."
    tokens: int
    "Their tokens."
    outcome: Outcome
    "Its losses, without their graph."


class Trainer:
    """One run of a recipe in a folder, from wherever the folder's state stands.

    Under torchrun every process has one, and all of them make the same steps together.

    Args:
        recipe: What to train.
        folder: Where state, scalars and the finished checkpoint go.

    Raises:
        RecipeError: The folder holds a run of another recipe, contexts of a size in the recipe are
            beyond the memory's limits, the micro-batches cannot be shared evenly among the
            processes, or the device is not there.
        DataError: A file of the task is missing or malformed.
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        torch.set_num_threads(recipe.threads)
        exact = recipe.precision == "float32"
        torch.set_float32_matmul_precision("highest" if exact else "high")
        self.device = device_of(recipe.device)
        self.processes = joined(self.device)
        self.recipe = recipe
        self.folder = folder
        self.subject = load_subject(recipe)
        self.start = start(recipe, self.subject)
        self.writer = self.start.writer
        self.model = self.writer.model
        self._check_examples()
        self._check_shares()
        self.model.to(self.device)
        self._gradient = StepGradient(self.writer, recipe, self.subject.memory_tokens)
        self.optimizers = build_optimizers(self.model, recipe.optimizer)
        self.average = _average(self.model, recipe.optimizer.average_decay)
        begun = self._changing() if recipe.start_share else {}
        self._begun = {name: each.clone() for name, each in begun.items()}
        self.progress = Progress()
        self.step = 0
        self.contexts = 0
        self.tokens = 0
        self.seconds = 0.0
        self.skipped = 0
        self._skipped_in_a_row = 0
        folder.mkdir(parents=True, exist_ok=True)
        if self.processes.first:
            remove_scratch(folder / CHECKPOINT)
        self._load()

    def fit(self, *, until_step: int | None = None, quiet: bool = False) -> list[float]:
        """Train until the budget is spent, and write the checkpoint.

        The checkpoint is written with every save, too, so that a kill leaves what was reached.

        Args:
            until_step: Stop before the budget is spent, after this many optimizer steps, saving
                the state but writing no checkpoint.
            quiet: Show no progress bar.

        Returns:
            The outer loss of every step that this call made.

        Raises:
            NonFiniteLossError: Too many steps in a row diverged.
            DeviceError: The device failed; the run can be continued from its last save.
            OutOfMemoryError: It has no memory for a single context.
        """
        losses: list[float] = []
        with ExitStack() as stack:
            feed = stack.enter_context(closing(Feed(self.recipe, self.subject)))
            logbook = None
            if self.processes.first:
                logbook = stack.enter_context(closing(self._logbook(quiet=quiet)))
            try:
                self._train(feed, logbook, losses, until_step)
            except torch.AcceleratorError as error:
                raise DeviceError(
                    f"the device failed ({str(error).splitlines()[0]}); the run goes on from its"
                    " last save when the same command is given again"
                ) from error
        if self.processes.first:
            self.save()
            if self.spent >= 1:
                self.export()
        return losses

    def _train(
        self, feed: Feed, logbook: Logbook | None, losses: list[float], until_step: int | None
    ) -> None:
        """Make steps until the budget or `until_step` is reached."""
        if self.device.type == "cuda":
            self._prepare(feed)
        saved = evaluated = started = time.monotonic()
        before, plan = self.seconds, self.recipe.evaluation
        while self.spent < 1 and self.step != until_step:
            loss = self._train_step(feed, logbook)
            now = time.monotonic()
            if not losses and self.recipe.budget_seconds is not None:
                started = now  # what the first step had to allocate or compile does not count
            self.seconds = self.processes.gather(before + now - started)[0]  # all end together
            if loss is None:
                continue
            losses.append(loss)
            if logbook is None:
                continue
            logbook.show(tokens=self.tokens, seconds=self.seconds, summary=self._summary(loss))
            if plan.is_due(self.step, now - evaluated):
                self._evaluate(logbook)
                evaluated = time.monotonic()
            if now - saved > self.recipe.save_every_seconds:
                self.save()
                self.export()
                saved = time.monotonic()

    @property
    def spent(self) -> float:
        """The share of the budget that is spent: of tokens or seconds, whichever is larger."""
        recipe = self.recipe
        return max(
            self.tokens / recipe.budget_tokens if recipe.budget_tokens else 0.0,
            self.seconds / recipe.budget_seconds if recipe.budget_seconds else 0.0,
        )

    def save(self) -> None:
        """Replace the state on disk (see `save_state`)."""
        state = {
            "model": self._changing(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": self.progress.state(),
            "counters": {name: getattr(self, name) for name in COUNTERS},
        }
        save_state(self.folder, self.recipe, state)

    def _load(self) -> None:
        """Continue from the state on disk, where there is one."""
        state = load_state(self.folder, self.recipe, self.device)
        if state is None:
            return
        if lacking := self._changing().keys() - state["model"].keys():
            raise RecipeError(f"{self.folder} holds a state without {', '.join(sorted(lacking))}")
        self.model.load_state_dict(state["model"], strict=False)  # a frozen backbone is not in it
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.progress = Progress(**state["progress"])
        for name, value in state["counters"].items():
            setattr(self, name, value)

    def _changing(self) -> dict[str, Tensor]:
        """Return the tensors that training changes: not those of a frozen backbone."""
        parameters = self.model.named_parameters()
        return {name: each.detach() for name, each in parameters if each.requires_grad}

    @property
    def result(self) -> Writer:
        """The writer that is evaluated and exported: over averaged weights where there are any."""
        model = self.model if self.average is None else self.average.module
        if self.recipe.start_share:
            model = copy.deepcopy(model)
            self._mix_in_the_start(model)
        return WRITERS[self.writer.kind](model)

    @torch.no_grad()
    def _mix_in_the_start(self, model: nn.Module) -> None:
        """Move weights towards those that the run started from."""
        for name, parameter in model.named_parameters():
            if name in self._begun:
                parameter.lerp_(self._begun[name], self.recipe.start_share)

    def export(self) -> str:
        """Write the checkpoint folder with its model card; returns the fingerprint."""
        training = self._record()
        return save_writer(
            self.folder / CHECKPOINT,
            self.result,
            name=self.recipe.name,
            form=self.subject.form,
            training=training,
            card=model_card(self.recipe, self.subject, training),
            external_backbone=self.start.external_backbone,
            adapter_dtype=getattr(torch, self.recipe.stored),
        )

    def _record(self) -> Training:
        """Describe how the weights came about."""
        return record_of(
            self.recipe,
            self.start.before,
            contexts=self.contexts,
            tokens=self.tokens,
            seconds=self.seconds,
        )

    def _check_examples(self) -> None:
        """Refuse a recipe now that would fail when a size's turn comes, or teach no end."""
        recipe, form = self.recipe, self.subject.form
        most = self.subject.memory.max_context_tokens
        longest = most + self.subject.memory_tokens
        if recipe.batch.tokens is not None and recipe.batch.tokens < longest:
            raise RecipeError(
                f"batch.tokens: a context with its memory takes up to {longest} tokens, more than"
                f" {recipe.batch.tokens}"
            )
        if too_long := [size for size in recipe.sizes if recipe.mixture and size > most]:
            raise RecipeError(
                f"mixture.windows: {too_long[0]} tokens are more than a context of this checkpoint"
                f" takes, {most}"
            )
        recipe.check_steps(getattr(self.subject.memory, "max_write_steps", 1))
        for size in {*recipe.sizes, *recipe.evaluation.sizes}:
            example = self.subject.task.sample(stream("train", recipe.seed), size=size, queries=1)
            tokens = len(form.tokenizer.encode(example.context))
            if form.tokenizer.encode(example.questions[0].target)[-1] not in form.stop_ids:
                raise RecipeError(
                    f"task: the answers of {recipe.task} end otherwise than those of the checkpoint"
                    f" to start from, which was made for {form.card.name}; make one by"
                    f" `gradmem-train init --task {recipe.task}`"
                )
            if tokens > most:
                raise RecipeError(
                    f"size {size}: a context of {tokens} tokens is longer than"
                    f" memory.max_context_tokens, {most}"
                )

    def _check_shares(self) -> None:
        """Refuse processes of which some would have nothing to do."""
        count, processes = self.recipe.batch.count, self.processes.count
        if count % processes:
            raise RecipeError(
                f"batch: {processes} processes cannot share {count} micro-batches evenly; start"
                " fewer processes, or change the batch"
            )

    def _train_step(self, feed: Feed, logbook: Logbook | None) -> float | None:
        """Make one optimizer step; return its outer loss, or None where it was skipped."""
        done = self._accumulate(feed)
        norm = gradient_norm(self.model, self.recipe.optimizer.gradient_clip) if done else math.nan
        if not math.isfinite(norm):
            self._skip()
            return None
        self._skipped_in_a_row = 0
        factor = rate_factor(self.recipe.optimizer, self.step, self.spent)
        set_rates(self.optimizers, factor)
        for optimizer in self.optimizers:
            optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.step += 1
        outcomes = [micro_batch.outcome for micro_batch in done]
        if logbook:
            values = {"gradient_norm": norm, "rate_factor": factor, **self._standing()}
            logbook.record_step(self.step, outcomes, values)
        return sum(float(outcome.loss) for outcome in outcomes) / len(outcomes)

    def _accumulate(self, feed: Feed) -> list[MicroBatchResult]:
        """Sum the gradients of a step's micro-batches, over all processes.

        Returns:
            All of them in their order; none if any diverged.
        """
        shares = self.processes.gather(self._compute(feed))
        finished = [share for share in shares if share is not None]
        if len(finished) < len(shares):
            return []
        self.processes.sum_gradients(self.model)
        done = [each for turn in zip(*finished, strict=True) for each in turn]
        self.tokens += sum(each.tokens for each in done)
        self.contexts += sum(each.contexts for each in done)
        self._advance(done)
        return done

    def _compute(self, feed: Feed) -> list[MicroBatchResult] | None:
        """Compute the gradients of this process's micro-batches; None if any diverged."""
        attempt = self.step + self.skipped  # a skipped step must not draw the same data again
        orders = self._orders(attempt)
        self._expect(feed)
        work = [Work(feed.take(order, self.device), self._write_steps(order)) for order in orders]
        try:
            outcomes = self._gradient.compute(work, share=1 / self.recipe.batch.count)
        except NonFiniteLossError:
            return None
        return [
            MicroBatchResult(
                order.size,
                sum(len(part.lengths) for part in each.parts),
                sum(int(part.lengths.sum()) for part in each.parts),
                outcome,
            )
            for order, each, outcome in zip(orders, work, outcomes, strict=True)
        ]

    def _expect(self, feed: Feed) -> None:
        """Let the next steps' contexts be drawn."""
        attempt = self.step + self.skipped
        ahead = range(attempt, attempt + steps_ahead(self.recipe))
        feed.expect([order for later in ahead for order in self._orders(later)])

    def _prepare(self, feed: Feed) -> None:
        """Compute gradients that nobody uses: what they compile and allocate is there then."""
        self._expect(feed)
        (order, *_) = self._orders(self.step + self.skipped)
        parts = feed.take(order, self.device)
        for steps in {*self.recipe.extreme_write_steps}:
            with suppress(NonFiniteLossError):
                self._gradient.compute([Work(parts, steps)], share=1.0)
        self.model.zero_grad()

    def _orders(self, attempt: int) -> list[Order]:
        """Return the places of this process's micro-batches in a step."""
        recipe = self.recipe
        indices = range(self.processes.rank, recipe.batch.count, self.processes.count)
        if recipe.curriculum is None:
            return [Order(attempt, index, 0) for index in indices]
        return [
            Order(
                attempt,
                index,
                self.progress.micro_batch_size(recipe.curriculum, recipe.seed, attempt, index),
            )
            for index in indices
        ]

    def _write_steps(self, order: Order) -> int:
        """Draw the number of write steps of a micro-batch from the schedule's stage."""
        if not self.recipe.schedule:
            return self.recipe.train_write_steps
        stage = next(stage for stage in self.recipe.schedule if self.spent <= stage.until)
        rng = stream("train", self.recipe.seed, order.attempt, order.index, 0, 0)
        return stage.write_steps[rng.integers(len(stage.write_steps))]

    def _advance(self, done: list[MicroBatchResult]) -> None:
        """Take the micro-batches of the stage's size into account, up to the next stage."""
        curriculum = self.recipe.curriculum
        if curriculum is None:
            return
        size = self.progress.size(curriculum)
        for each in done:
            if each.size == size and self.progress.record(curriculum, each.outcome.exact_match):
                return

    def _skip(self) -> None:
        self.skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= SKIPPED_IN_A_ROW:
            raise NonFiniteLossError(
                f"{SKIPPED_IN_A_ROW} steps in a row diverged; lower the learning rates",
                samples=[],
            )

    def _logbook(self, *, quiet: bool) -> Logbook:
        return Logbook(
            self.recipe, self.folder, tokens=self.tokens, seconds=self.seconds, quiet=quiet
        )

    def _standing(self) -> dict[str, float]:
        """Say where the run stands, in scalars."""
        standing = {
            "contexts": float(self.contexts),
            "seconds": self.seconds,
            "skipped_steps": float(self.skipped),
        }
        if self.recipe.curriculum is None:
            return standing
        return {**standing, "size": float(self.progress.size(self.recipe.curriculum))}

    def _evaluate(self, logbook: Logbook) -> None:
        """Measure on the selection split and log it."""
        plan, result, parts = self.recipe.evaluation, self.result, self.subject.task.parts()
        for size in plan.sizes:
            for steps in plan.write_steps:
                scores = {
                    name: evaluate(
                        result,
                        self.subject.form,
                        part,
                        size=size,
                        contexts=plan.contexts,
                        queries=plan.queries,
                        write_steps=steps,
                        seed=self.recipe.seed,
                        split="selection",
                    )
                    for name, part in parts.items()
                }
                logbook.record_scores(self.step, size, steps, scores)

    def _summary(self, loss: float) -> dict[str, Any]:
        summary: dict[str, Any] = {
            "step": self.step,
            "loss": f"{loss:.3f}",
            "contexts": self.contexts,
            "skipped": self.skipped,
        }
        if self.recipe.curriculum is not None:
            summary["size"] = self.progress.size(self.recipe.curriculum)
            summary["match"] = f"{self.progress.accuracy:.3f}"
        return summary


def _average(model: nn.Module, decay: float | None) -> AveragedModel | None:
    if decay is None:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
