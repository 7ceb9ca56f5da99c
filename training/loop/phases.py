"""The phases of a run, one after the other."""

from collections.abc import Sequence
from pathlib import Path

from training.loop.checks import check_phases
from training.loop.parallel import choose_device, join_processes
from training.loop.state import is_finished
from training.loop.trainer import Trainer
from training.recipes.loading import Phase
from training.runs import CHECKPOINT


def fit_phases(phases: Sequence[Phase], folder: Path, *, quiet: bool = False) -> Trainer:
    """Train the phases of a run in turn, each from the checkpoint of the one before.

    A run that was stopped goes on in the phase that it had reached.

    Args:
        phases: The phases; a recipe without any is a single one.
        folder: The run's folder. The last phase has its state and its checkpoint there, the others
            in folders of their names inside.
        quiet: Show no progress bar.

    Returns:
        The trainer of the last phase.

    Raises:
        RecipeError: A phase would fail when its turn comes (see `check_phases`).
        GradMemError: See `Trainer` and `Trainer.fit`.
    """
    recipes, folders = [phases[0].recipe], [folder / phase.folder for phase in phases]
    for phase, before in zip(phases[1:], folders, strict=False):
        start = str((before / CHECKPOINT).resolve())
        recipes.append(phase.recipe.model_copy(update={"start": start}))
    if len(phases) > 1:
        processes = join_processes(choose_device(recipes[0].device))
        check_phases(recipes, processes=processes.count)
    for recipe, place in zip(recipes[:-1], folders, strict=False):
        if not is_finished(place, recipe):
            Trainer(recipe, place).fit(quiet=quiet)
    last = Trainer(recipes[-1], folders[-1])
    last.fit(quiet=quiet)
    return last
