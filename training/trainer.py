"""The meta-training loop."""

import math
import os
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from gradmem_core.errors import NonFiniteLossError, RecipeError
from training.batch import Batch, collate_parts
from training.card import model_card
from training.curriculum import Progress
from training.evaluate import evaluate
from training.optim import build_optimizers, rate_factor, set_rates
from training.parallel import device_of, joined
from training.recipe import Recipe
from training.seeds import stream
from training.start import start
from training.step import Outcome, clipped_alone, gradient_norm, outer_loss
from training.tasks import task_by_name
from training.writers import WRITERS, Training, Writer, save_writer
from training.writers.gradmem import GradMem

STATE = "state.pt"
SKIPPED_IN_A_ROW = 20
COUNTERS = ("step", "tokens", "seconds", "skipped")
CHANGEABLE = {"budget_tokens", "device", "evaluation", "recompute", "save_every_seconds", "threads"}
"Fields of a recipe that may change when a run is continued."


@dataclass(frozen=True)
class MicroBatch:
    """What one micro-batch was and gave."""

    size: int
    "Size of its contexts."
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
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        torch.set_num_threads(recipe.threads)
        self.device = device_of(recipe.device)
        self.processes = joined(self.device)
        self.recipe = recipe
        self.folder = folder
        self.task = task_by_name(recipe.task, recipe.data)
        self.start = start(recipe, self.task)
        self.writer = self.start.writer
        if isinstance(self.writer, GradMem):
            self.writer = replace(self.writer, recompute=recipe.recompute)
        self.model = self.writer.model
        self._check_examples()
        self._check_shares()
        self.model.to(self.device)
        self.optimizers = build_optimizers(self.model, recipe.optimizer)
        self.average = _average(self.model, recipe.optimizer.average_decay)
        self.progress = Progress()
        self.step = 0
        self.tokens = 0
        self.seconds = 0.0
        self.skipped = 0
        self._skipped_in_a_row = 0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / STATE).exists():
            self.load()

    def fit(self, *, until_step: int | None = None, quiet: bool = False) -> list[float]:
        """Train until the budget is spent, and write the checkpoint.

        Args:
            until_step: Stop before the budget is spent, after this many optimizer steps, saving
                the state but writing no checkpoint.
            quiet: Show no progress bar.

        Returns:
            The outer loss of every step that this call made.

        Raises:
            NonFiniteLossError: Too many steps in a row diverged.
        """
        losses = []
        saved = started = time.monotonic()
        before = self.seconds
        budget, first = self.recipe.budget_tokens, self.processes.first
        with ExitStack() as stack:
            bar = stack.enter_context(
                tqdm(total=budget, initial=self.tokens, unit="tok", disable=quiet or not first)
            )
            scalars = None
            if first:
                scalars = stack.enter_context(SummaryWriter(str(self.folder / "scalars")))
            while self.tokens < budget and self.step != until_step:
                spent = self.tokens
                loss = self._train_step(scalars)
                self.seconds = before + time.monotonic() - started
                bar.update(self.tokens - spent)
                if loss is None:
                    continue
                losses.append(loss)
                bar.set_postfix(self._summary(loss))
                if scalars and self.step % self.recipe.evaluation.every_steps == 0:
                    self._evaluate(scalars)
                if first and time.monotonic() - saved > self.recipe.save_every_seconds:
                    self.save()
                    saved = time.monotonic()
        if first:
            self.save()
        if first and self.tokens >= budget:
            self.export()
        return losses

    def save(self) -> None:
        """Replace the state on disk in one move, so that a kill at any moment leaves one whole."""
        state = {
            "recipe": self.recipe.model_dump(mode="json"),
            "model": self._changing(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": self.progress.state(),
            "counters": {name: getattr(self, name) for name in COUNTERS},
        }
        scratch = self.folder / f"{STATE}.new"
        with scratch.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(self.folder / STATE)

    def load(self) -> None:
        """Continue from the state on disk.

        Raises:
            RecipeError: It belongs to another recipe; only the fields in CHANGEABLE may differ.
        """
        state = torch.load(self.folder / STATE, weights_only=True, map_location=self.device)
        theirs = Recipe.model_validate(state["recipe"])
        for field in Recipe.model_fields.keys() - CHANGEABLE:
            if getattr(theirs, field) != getattr(self.recipe, field):
                raise RecipeError(
                    f"{field}: {self.folder} holds a run with another {field}; give another folder"
                )
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
        """The tensors that training changes: not those of a frozen backbone."""
        parameters = self.model.named_parameters()
        return {name: one.detach() for name, one in parameters if one.requires_grad}

    @property
    def result(self) -> Writer:
        """What is evaluated and exported: over the averaged weights where there are any."""
        if self.average is None:
            return self.writer
        return WRITERS[self.writer.kind](self.average.module)

    def export(self) -> str:
        """Write the checkpoint folder with its model card; returns the fingerprint."""
        training, external = self._record(), self.start.external_backbone
        return save_writer(
            self.folder / "checkpoint",
            self.result,
            name=self.recipe.name,
            form=self.start.form,
            training=training,
            card=model_card(self.recipe, self.task, self.start.form, self.writer.config, training),
            external_backbone=external,
        )

    def _record(self) -> Training:
        """How the weights came about, with the runs that they started from."""
        recipe, before = self.recipe, self.start.before
        return Training(
            recipe=recipe.name,
            writer=recipe.writer,
            seed=recipe.seed,
            write_steps=recipe.train_write_steps,
            contexts=self.step * recipe.batch.contexts + (before.contexts if before else 0),
            tokens=self.tokens + (before.tokens if before else 0),
            seconds=self.seconds + (before.seconds if before else 0.0),
            sizes=[stage.size for stage in recipe.curriculum.stages],
        )

    def _check_examples(self) -> None:
        """Refuse a recipe now that would fail when a size's turn comes, or teach no end."""
        recipe, most, form = self.recipe, self.writer.config.max_context_tokens, self.start.form
        for size in {stage.size for stage in recipe.curriculum.stages} | set(
            recipe.evaluation.sizes
        ):
            example = self.task.sample(stream("train", recipe.seed), size=size, queries=1)
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
        batch, count = self.recipe.batch, self.processes.count
        micro_batches = batch.contexts // batch.micro_batch
        if micro_batches % count:
            raise RecipeError(
                f"batch: {count} processes cannot share {micro_batches} micro-batches evenly; start"
                " fewer processes, or change batch.contexts or batch.micro_batch"
            )

    def _train_step(self, scalars: SummaryWriter | None) -> float | None:
        """One optimizer step; its outer loss, or None where it was skipped."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        micro_batches = self._accumulate()
        norm = math.nan
        if micro_batches:
            norm = gradient_norm(self.model, self.recipe.optimizer.gradient_clip)
        if not math.isfinite(norm):
            self._skip()
            return None
        self._skipped_in_a_row = 0
        spent = self.tokens / self.recipe.budget_tokens
        factor = rate_factor(self.recipe.optimizer, self.step, spent)
        set_rates(self.optimizers, factor)
        for optimizer in self.optimizers:
            optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.step += 1
        outcomes = [micro_batch.outcome for micro_batch in micro_batches]
        if scalars:
            self._log(scalars, outcomes, norm=norm, factor=factor)
        return sum(float(outcome.loss) for outcome in outcomes) / len(outcomes)

    def _accumulate(self) -> list[MicroBatch]:
        """Sum the gradients of a step's micro-batches, over all processes.

        Returns:
            All of them in their order; none if any diverged.
        """
        recipe, size = self.recipe, self.progress.size(self.recipe.curriculum)
        count = recipe.batch.contexts // recipe.batch.micro_batch
        mine: list[MicroBatch] | None
        try:
            mine = [
                self._micro_batch(index, share=1 / count)
                for index in range(self.processes.rank, count, self.processes.count)
            ]
        except NonFiniteLossError:
            mine = None
        shares = self.processes.gather(mine)
        done = [share for share in shares if share is not None]
        if len(done) < len(shares):
            return []
        self.processes.sum_gradients(self.model)
        micro_batches = [one for turn in zip(*done, strict=True) for one in turn]
        self.tokens += sum(one.tokens for one in micro_batches)
        for one in micro_batches:
            if one.size == size and self.progress.record(
                recipe.curriculum, one.outcome.exact_match
            ):
                break
        return micro_batches

    def _micro_batch(self, index: int, *, share: float) -> MicroBatch:
        """Add the gradient of one micro-batch, scaled by `share`."""
        recipe = self.recipe
        attempt = self.step + self.skipped  # a skipped step must not draw the same data again
        size = self.progress.micro_batch_size(recipe.curriculum, recipe.seed, attempt, index)
        examples = [
            self.task.sample(
                stream("train", recipe.seed, attempt, index, 1 + row),
                size=size,
                queries=recipe.batch.queries,
            )
            for row in range(recipe.batch.micro_batch)
        ]
        parts = collate_parts(examples, self.start.form, device=self.device)
        tokens = sum(int(part.lengths.sum()) for part in parts)
        limit = recipe.optimizer.micro_batch_clip
        with clipped_alone(self.model, None if limit is None else share * limit):
            outcomes = [self._part(part, share) for part in parts]
        return MicroBatch(size, tokens, reduce(add, outcomes))

    def _part(self, part: Batch, share: float) -> Outcome:
        """Add the gradient of a part of a micro-batch, scaled by `share`."""
        recipe = self.recipe
        outcome = outer_loss(
            self.writer,
            part,
            steps=recipe.train_write_steps,
            write_loss_weight=recipe.write_loss_weight,
        )
        (outcome.loss * share).backward()  # type: ignore[no-untyped-call]
        return replace(outcome, loss=outcome.loss.detach().cpu())

    def _skip(self) -> None:
        self.skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= SKIPPED_IN_A_ROW:
            raise NonFiniteLossError(
                f"{SKIPPED_IN_A_ROW} steps in a row diverged; lower the learning rates",
                samples=[],
            )

    def _log(
        self, scalars: SummaryWriter, outcomes: list[Outcome], *, norm: float, factor: float
    ) -> None:
        values = {
            "train/target_loss": sum(o.target_loss for o in outcomes) / len(outcomes),
            "train/write_loss": sum(o.write_loss for o in outcomes) / len(outcomes),
            "train/exact_match": self.progress.accuracy,
            "train/size": self.progress.size(self.recipe.curriculum),
            "train/gradient_norm": norm,
            "train/rate_factor": factor,
            "train/skipped_steps": self.skipped,
        }
        for name, value in values.items():
            scalars.add_scalar(name, value, self.step)

    def _evaluate(self, scalars: SummaryWriter) -> None:
        """Measure on the selection split and say so."""
        plan = self.recipe.evaluation
        for size in plan.sizes:
            for steps in plan.write_steps:
                score = evaluate(
                    self.result,
                    self.start.form,
                    self.task,
                    size=size,
                    contexts=plan.contexts,
                    queries=plan.queries,
                    write_steps=steps,
                    seed=self.recipe.seed,
                    split="selection",
                )
                name = f"selection/size_{size}/steps_{steps}"
                scalars.add_scalar(name, score.exact_match, self.step)
                tqdm.write(f"step {self.step} {name} {asdict(score)}")

    def _summary(self, loss: float) -> dict[str, Any]:
        return {
            "step": self.step,
            "loss": f"{loss:.3f}",
            "size": self.progress.size(self.recipe.curriculum),
            "match": f"{self.progress.accuracy:.3f}",
            "skipped": self.skipped,
        }


def _average(model: nn.Module, decay: float | None) -> AveragedModel | None:
    if decay is None:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
