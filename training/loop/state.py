"""The state of a run: all that training changes, in memory and on disk."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from gradmem_core.errors import RecipeError
from training.loop.averaging import WeightAverage, trained_tensors
from training.loop.curriculum import Progress
from training.recipes.schema import Recipe
from training.runs import STATE

COUNTERS = ("step", "contexts", "tokens", "seconds", "skipped")
CHANGEABLE = {
    *("budget_seconds", "budget_tokens", "device", "evaluation", "recompute"),
    *("save_every_seconds", "start_share", "threads", "workers"),
}
"Fields of a recipe that may change when a run is continued."


@dataclass
class RunState:
    """All that changes from step to step."""

    recipe: Recipe
    "The run's settings."
    model: nn.Module
    "The model in training, on its device."
    optimizers: list[Optimizer]
    "Every trained parameter is in one of them."
    average: WeightAverage
    "The weights to evaluate and export."
    progress: Progress = field(default_factory=Progress)
    "Place in the curriculum."
    step: int = 0
    "Optimizer steps made."
    contexts: int = 0
    "Contexts written."
    tokens: int = 0
    "Their tokens."
    seconds: float = 0.0
    "Wall-clock time of all sessions."
    skipped: int = 0
    "Steps that diverged and changed nothing."

    @property
    def spent(self) -> float:
        """The share of the budget that is spent."""
        return self.recipe.spent(self.tokens, self.seconds)

    @property
    def attempt(self) -> int:
        """The number of the next step, skipped ones counted: it must not draw their data again."""
        return self.step + self.skipped

    def save(self, folder: Path) -> None:
        """Replace the state on disk in one move, so that a kill at any time leaves a whole one."""
        state = {
            "recipe": self.recipe.model_dump(mode="json"),
            "model": trained_tensors(self.model),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": self.progress.state(),
            "counters": {name: getattr(self, name) for name in COUNTERS},
        }
        scratch = folder / f"{STATE}.new"
        with scratch.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(folder / STATE)

    def restore(self, folder: Path, device: torch.device) -> None:
        """Continue from the state on disk, if there is one.

        Raises:
            RecipeError: It belongs to another recipe (see `load_state`).
        """
        state = load_state(folder, self.recipe, device)
        if state is None:
            return
        if lacking := trained_tensors(self.model).keys() - state["model"].keys():
            raise RecipeError(f"{folder} holds a state without {', '.join(sorted(lacking))}")
        self.model.load_state_dict(state["model"], strict=False)  # a frozen backbone is not in it
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.progress = Progress(**state["progress"])
        for name, value in state["counters"].items():
            setattr(self, name, value)


def load_state(folder: Path, recipe: Recipe, device: torch.device) -> dict[str, Any] | None:
    """Read a run's state; None where the folder has none.

    Raises:
        RecipeError: It belongs to another recipe; only the fields in CHANGEABLE may differ.
    """
    if not (folder / STATE).exists():
        return None
    state: dict[str, Any] = torch.load(folder / STATE, weights_only=True, map_location=device)
    theirs = Recipe.model_validate(state["recipe"])
    for name in Recipe.model_fields.keys() - CHANGEABLE:
        if getattr(theirs, name) != getattr(recipe, name):
            raise RecipeError(
                f"{name}: {folder} holds a run with another {name}; give another folder"
            )
    return state


def is_finished(folder: Path, recipe: Recipe) -> bool:
    """Return whether a folder's run has spent the recipe's budget.

    Raises:
        RecipeError: See `load_state`.
    """
    state = load_state(folder, recipe, torch.device("cpu"))
    if state is None:
        return False
    counters = state["counters"]
    return recipe.spent(counters["tokens"], counters["seconds"]) >= 1
