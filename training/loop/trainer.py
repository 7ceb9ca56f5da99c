"""The loop of a run: optimizer steps until the budget is spent, with evaluations and saves."""

import time
from contextlib import ExitStack, closing
from pathlib import Path

import torch

from gradmem_core.checkpoints.folders import remove_scratch
from gradmem_core.errors import DeviceError
from training.checkpoints.description import describe_training, write_card
from training.loop.averaging import WeightAverage
from training.loop.checks import check_recipe
from training.loop.data import load_training_data
from training.loop.feed import Feed
from training.loop.gradient import StepGradient
from training.loop.initial_model import build_initial_model
from training.loop.logbook import Logbook
from training.loop.optimizers import build_optimizers
from training.loop.parallel import choose_device, join_processes
from training.loop.selection import evaluate_selection
from training.loop.state import RunState
from training.loop.step import Stepper, StepResult
from training.recipes.schema import Recipe
from training.runs import CHECKPOINT
from training.writers import WRITERS, Training, Writer, save_writer


class Trainer:
    """One run of a recipe in a folder, from wherever the folder's state stands.

    Under torchrun every process has one, and all of them make the same steps together.

    Args:
        recipe: The settings of the run.
        folder: Place of its state, scalars and checkpoint.

    Raises:
        RecipeError: The folder holds a run of another recipe, the recipe would fail during the run
            (see `check_recipe`), or the device is not there.
        CheckpointError: The checkpoint to start from is missing or damaged.
        DataError: A file of the task is missing or malformed.
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        _set_numerics(recipe)
        self.recipe = recipe
        self.folder = folder
        self.device = choose_device(recipe.device)
        self.processes = join_processes(self.device)
        self.data = load_training_data(recipe)
        check_recipe(recipe, self.data, processes=self.processes.count)
        self._initial = build_initial_model(recipe, self.data)
        self.writer = self._initial.writer
        self.model = self.writer.model.to(self.device)
        self.state = RunState(
            recipe,
            self.model,
            build_optimizers(self.model, recipe.optimizer),
            WeightAverage(
                self.model,
                decay=recipe.optimizer.average_decay,
                start_share=recipe.start_share,
            ),
        )
        gradient = StepGradient(self.writer, recipe, self.data.memory_tokens)
        self.stepper = Stepper(self.state, gradient, self.processes, self.device)
        folder.mkdir(parents=True, exist_ok=True)
        if self.processes.first:
            remove_scratch(folder / CHECKPOINT)
        self.state.restore(folder, self.device)
        self._saved = self._evaluated = time.monotonic()

    def fit(self, *, until_step: int | None = None, quiet: bool = False) -> list[float]:
        """Train until the budget is spent, and write the checkpoint.

        The checkpoint is written with every save, too, so that a kill leaves what was reached.

        Args:
            until_step: Stop after this many optimizer steps, though the budget is not spent: save
                the state and write no checkpoint.
            quiet: Show no progress bar.

        Returns:
            The outer loss of every step that this call made.

        Raises:
            NonFiniteLossError: Too many steps in a row diverged.
            DeviceError: The device failed; the run can be continued from its last save.
            OutOfMemoryError: The device has no memory for a single context.
        """
        with ExitStack() as stack:
            feed = stack.enter_context(closing(Feed(self.recipe, self.data)))
            logbook = None
            if self.processes.first:
                logbook = Logbook(self.folder, self.state, quiet=quiet)
                stack.enter_context(closing(logbook))
            try:
                losses = self._train(feed, logbook, until_step)
            except torch.AcceleratorError as error:
                raise DeviceError(
                    f"the device failed ({str(error).splitlines()[0]}); give the same command again"
                    " to continue the run from its last save"
                ) from error
        if self.processes.first:
            if self.state.spent >= 1:
                self._save()
            else:
                self.state.save(self.folder)
        self.processes.wait()
        return losses

    def _train(self, feed: Feed, logbook: Logbook | None, until_step: int | None) -> list[float]:
        """Make steps until the budget or `until_step` is reached; return their losses."""
        state, losses = self.state, list[float]()
        if self.device.type == "cuda":
            self.stepper.warm_up(feed)
        before = state.seconds
        started = self._saved = self._evaluated = time.monotonic()
        while state.spent < 1 and state.step != until_step:
            result = self.stepper.make_step(feed)
            now = time.monotonic()
            if not losses and self.recipe.budget_seconds is not None:
                started = now  # what the first step had to allocate or compile does not count
            state.seconds = self.processes.share_first(before + now - started)  # all end together
            if result is None:
                continue
            losses.append(result.loss)
            if logbook is not None:
                self._log_and_save(result, logbook, now)
        return losses

    def _log_and_save(self, result: StepResult, logbook: Logbook, now: float) -> None:
        """Log a step; then evaluate and save where that is due."""
        logbook.record_step(self.state, result)
        if self.recipe.evaluation.is_due(self.state.step, now - self._evaluated):
            for scores in evaluate_selection(self.recipe, self.data, self.build_result()):
                logbook.record_scores(self.state.step, scores)
            self._evaluated = time.monotonic()
        if now - self._saved > self.recipe.save_every_seconds:
            self._save()
            self._saved = time.monotonic()

    def _save(self) -> None:
        """Write the checkpoint, then the state, which may say that the run is finished."""
        self.export()
        self.state.save(self.folder)

    def build_result(self) -> Writer:
        """Return the writer to evaluate and export: over averaged weights where there are any."""
        return WRITERS[self.writer.kind](self.state.average.average())

    def describe(self) -> Training:
        """Return the record of the training so far, with the runs that it started from."""
        return describe_training(
            self.recipe,
            self._initial.before,
            contexts=self.state.contexts,
            tokens=self.state.tokens,
            seconds=self.state.seconds,
        )

    def export(self) -> str:
        """Write the checkpoint folder with its model card; return its fingerprint."""
        training = self.describe()
        return save_writer(
            self.folder / CHECKPOINT,
            self.build_result(),
            name=self.recipe.name,
            form=self.data.form,
            training=training,
            card=write_card(self.recipe, self.data, training),
            external_backbone=self._initial.external_backbone,
            adapter_dtype=getattr(torch, self.recipe.stored),
        )


def _set_numerics(recipe: Recipe) -> None:
    """Set the process's threads and the precision of float32 products."""
    torch.set_num_threads(recipe.threads)
    exact = recipe.precision == "float32"
    torch.set_float32_matmul_precision("highest" if exact else "high")
