"""Recipes by name.

A recipe is a TOML file with the fields of `Recipe`, and three things more:

- `extends` names a recipe, or a list of them, whose fields it takes where it gives none itself;
  those of a later one replace those of an earlier one.
- `[[phases]]` are overrides with a `name` and a budget each. They are trained in turn, each from
  the checkpoint of the one before. `RECIPE:PHASE` names one of them.
- `ablations.toml` and `baselines.toml` hold a recipe in each table.

A recipe is called like its file or its table, unless it gives a `name`.
"""

import re
import tomllib
from collections.abc import Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gradmem_core.errors import RecipeError
from training.problems import describe_problem
from training.recipes.overrides import set_field
from training.recipes.schema import Recipe
from training.runs import CHECKPOINT, RUNS, SCALARS

RECIPES = Path(__file__).parent
COLLECTIONS = (RECIPES / "ablations.toml", RECIPES / "baselines.toml")
"Files with a recipe in each table."
PHASE_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
FIXED = ("backbone", "extends", "fresh", "phases", "start", "writer")
"Fields that a phase cannot give: they are the recipe's, or follow from the phase before."
ONCE = ("fresh", "name", "start")
"Fields whose override concerns the run, not each of its phases."

Fields = dict[str, Any]


@dataclass(frozen=True)
class Phase:
    """A part of a run with settings and a budget of its own."""

    recipe: Recipe
    "Its settings. A later phase starts from the default folder of the phase before."
    folder: str
    "Its folder in that of the run: `.` for the last phase, the phase's name for the others."


def recipe_names() -> list[str]:
    """Return the names of the recipes that the package holds."""
    files = [path.stem for path in RECIPES.glob("*.toml") if path not in COLLECTIONS]
    tables = [name for path in COLLECTIONS for name in _parse(path)]
    return sorted(files + tables)


def load_recipe(reference: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe; of a recipe with phases the last one, whose checkpoint is the run's.

    Args:
        reference: A TOML file, or the name of a recipe that the package holds; with `:PHASE` behind
            it, that phase alone.
        overrides: `dotted.field=value`, the value as in TOML (a bare word is a string).

    Raises:
        RecipeError: There is no such recipe, or a field is unknown, of a wrong type or out of
            range.
    """
    return load_phases(reference, overrides)[-1].recipe


def load_phases(reference: str | Path, overrides: Sequence[str] = ()) -> list[Phase]:
    """Read the phases of a recipe; a recipe without any is a single phase.

    Args:
        reference: See `load_recipe`.
        overrides: See `load_recipe`. They hold for every phase, except for `name` and `start`.

    Raises:
        RecipeError: See `load_recipe`; or a phase has no name, no budget, or a field that a phase
            cannot give.
    """
    fields = _read(str(reference), extending=())
    for override in overrides:
        set_field(fields, override)
    if "phases" not in fields:
        return [Phase(_validate(fields, str(reference)), ".")]
    phases = _split(fields, str(reference))
    for phase in phases.values():
        for override in overrides:
            if override.partition("=")[0] not in ONCE:
                set_field(phase, override)
    *_, last = phases
    return [
        Phase(_validate(phase, f"{reference}, phase {name!r}"), "." if name == last else name)
        for name, phase in phases.items()
    ]


def _validate(fields: Fields, place: str) -> Recipe:
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        problems = "; ".join(describe_problem(entry) for entry in error.errors())
        raise RecipeError(f"{place}: {problems}") from error


def _read(reference: str, *, extending: tuple[str, ...]) -> Fields:
    """Read a recipe's fields over those of the recipes that it extends."""
    if reference in extending:
        raise RecipeError(f"{reference}: extends itself")
    name, _, phase = reference.partition(":")
    if phase and not Path(reference).is_file():
        return _select_phase(_read(name, extending=(*extending, reference)), name, phase)
    own = _find(reference)
    bases = own.pop("extends", [])
    fields: Fields = {}
    for base in bases if isinstance(bases, list) else [bases]:
        fields = _merge(fields, _read(str(base), extending=(*extending, reference)))
    fields["name"] = Path(reference).stem if Path(reference).is_file() else reference
    return _merge(fields, own)


def _find(reference: str) -> Fields:
    """Return the fields that a recipe gives itself."""
    for path in (Path(reference), RECIPES / f"{reference}.toml"):
        if path.is_file() and path not in COLLECTIONS:
            return _parse(path)
    for path in COLLECTIONS:
        if reference in (tables := _parse(path)):
            return dict(tables[reference])
    raise RecipeError(f"no recipe {reference!r}: give a file or one of {', '.join(recipe_names())}")


def _parse(path: Path) -> Fields:
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error


def _merge(base: Fields, changes: Fields) -> Fields:
    """Return fields with changes: tables field by field, all else as a whole."""
    merged = dict(base)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merge(merged[name], value) if both else value
    return merged


def _split(fields: Fields, reference: str) -> dict[str, Fields]:
    """Return the fields of every phase by its name."""
    tables = fields["phases"]
    if not isinstance(tables, list) or not tables:
        raise RecipeError(f"{reference}: phases: give a table for each, [[phases]]")
    shared = {
        name: value
        for name, value in fields.items()
        if name not in ("phases", "budget_tokens", "budget_seconds")
    }
    split: dict[str, Fields] = {}
    for table in tables:
        name = _check_phase(table, split.keys(), reference)
        phase = _merge(deepcopy(shared), {**table, "name": f"{fields['name']}-{name}"})
        if split:
            *_, before = split
            phase |= {"start": str(RUNS / fields["name"] / before / CHECKPOINT), "fresh": False}
        split[name] = phase
    phase["name"] = fields["name"]  # the last phase makes the run's checkpoint
    return split


def _check_phase(table: Any, taken: Collection[str], reference: str) -> str:  # noqa: ANN401
    """Refuse what a phase cannot be; return its name."""
    if not isinstance(table, dict):
        raise RecipeError(f"{reference}: phases: {table!r} is not a table")
    name = table.get("name")
    if not isinstance(name, str) or not PHASE_NAME.fullmatch(name):
        raise RecipeError(
            f"{reference}: phases: every phase has a name of a-z, 0-9 and -, not {name!r}"
        )
    place = f"{reference}, phase {name!r}"
    if name in (*taken, CHECKPOINT, SCALARS):
        raise RecipeError(f"{place}: the name is taken; give another")
    if fixed := [field for field in FIXED if field in table]:
        raise RecipeError(f"{place}: {fixed[0]} holds for all phases; give it outside of them")
    if "budget_tokens" not in table and "budget_seconds" not in table:
        raise RecipeError(f"{place}: give budget_tokens, budget_seconds or both")
    return name


def _select_phase(fields: Fields, reference: str, phase: str) -> Fields:
    if "phases" not in fields:
        raise RecipeError(f"{reference} has no phases")
    phases = _split(fields, reference)
    if phase not in phases:
        raise RecipeError(f"{reference} has no phase {phase!r}; it has {', '.join(phases)}")
    return phases[phase]
