"""The state on disk that a run is continued from."""

import os
from pathlib import Path
from typing import Any

import torch

from gradmem_core.errors import RecipeError
from training.recipe import Recipe

STATE = "state.pt"
CHANGEABLE = {
    *("budget_seconds", "budget_tokens", "device", "evaluation", "recompute"),
    *("save_every_seconds", "start_share", "threads", "workers"),
}
"Fields of a recipe that may change when a run is continued."


def save_state(folder: Path, recipe: Recipe, state: dict[str, Any]) -> None:
    """Replace a run's state in one move, so that a kill at any moment leaves a whole one."""
    scratch = folder / f"{STATE}.new"
    with scratch.open("wb") as file:
        torch.save({"recipe": recipe.model_dump(mode="json"), **state}, file)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(folder / STATE)


def load_state(folder: Path, recipe: Recipe, device: torch.device) -> dict[str, Any] | None:
    """Read a run's state; None where the folder has none.

    Raises:
        RecipeError: It belongs to another recipe; only the fields in CHANGEABLE may differ.
    """
    if not (folder / STATE).exists():
        return None
    state: dict[str, Any] = torch.load(folder / STATE, weights_only=True, map_location=device)
    theirs = Recipe.model_validate(state["recipe"])
    for field in Recipe.model_fields.keys() - CHANGEABLE:
        if getattr(theirs, field) != getattr(recipe, field):
            raise RecipeError(
                f"{field}: {folder} holds a run with another {field}; give another folder"
            )
    return state
