"""Train recipes at the same time on one GPU; by default the baselines of 32 pairs.

    PYTHONPATH=. python scripts/baselines.py FOLDER [RECIPE | "RECIPE FIELD=VALUE ..."] ...

Every run needs a name of its own. FOLDER gets `NAME.json` (contexts, seconds, exact match on the
test split by pairs) and `NAME.tar.gz`, the run's folder for `gradmem-bench curve` and
`exact-match`, without what only its continuation needs.
"""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import torch

from gradmem_core.errors import GradMemError, RecipeError
from training.evaluation.scores import evaluate
from training.recipes.loading import load_recipe
from training.runs import CHECKPOINT, RUNS, SCALARS, STATE
from training.tasks import build_task
from training.writers import load_writer

BASELINES = ("kv-32-rmt", "kv-32-armt", "kv-32-first-order")
CONTEXTS, QUERIES, SEED = 200, 8, 7


def main(folder: Path, recipes: list[str]) -> int:
    """Train, then measure and pack what has finished; return the number of runs that failed."""
    options = dict(_read(*recipe.split()) for recipe in recipes)
    if len(options) < len(recipes):
        raise RecipeError("two recipes have one name; add name=OTHER to one of them")
    folder.mkdir(parents=True, exist_ok=True)
    fit = [sys.executable, "-m", "training", "fit"]
    runs = {name: subprocess.Popen([*fit, *words]) for name, words in options.items()}
    failed = [name for name, run in runs.items() if run.wait()]
    for name in runs.keys() - failed:
        scores = _measure(name)
        (folder / f"{name}.json").write_text(json.dumps(scores, indent=2) + "\n")
        print(name, json.dumps(scores))
        _pack(name, folder / f"{name}.tar.gz")
    return len(failed)


def _read(recipe: str, *overrides: str) -> tuple[str, list[str]]:
    """Return the name of a recipe and the arguments that train it."""
    name = load_recipe(recipe, overrides).name
    return name, [recipe, *(word for override in overrides for word in ("--set", override))]


def _measure(name: str) -> dict[str, object]:
    loaded = load_writer(RUNS / name / CHECKPOINT)
    assert loaded.training is not None
    loaded.writer.model.to("cuda" if torch.cuda.is_available() else "cpu")
    shares = {
        size: evaluate(
            loaded.writer,
            loaded.form,
            build_task("kv", None),
            size=size,
            contexts=CONTEXTS,
            queries=QUERIES,
            write_steps=1,
            seed=SEED,
            split="test",
        ).exact_match
        for size in loaded.training.sizes
    }
    spent = {"contexts": loaded.training.contexts, "seconds": loaded.training.seconds}
    return {"recipe": name, **spent, "exact_match": shares}


def _pack(name: str, archive: Path) -> None:
    """Pack a run's folder, of its state only the recipe and the counters."""
    run = RUNS / name
    whole = torch.load(run / STATE, weights_only=True, map_location="cpu")
    state = io.BytesIO()
    torch.save({field: whole[field] for field in ("recipe", "counters")}, state)
    with tarfile.open(archive, "w:gz") as packed:
        for part in (CHECKPOINT, SCALARS):
            packed.add(run / part, arcname=f"{name}/{part}")
        entry = tarfile.TarInfo(f"{name}/{STATE}")
        entry.size = state.tell()
        state.seek(0)
        packed.addfile(entry, state)


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), sys.argv[2:] or list(BASELINES)))
    except GradMemError as error:
        sys.exit(f"error: {error}")
