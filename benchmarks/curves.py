"""`gradmem-bench curve`: evaluations and losses of a training run, from its folder."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from benchmarks.command import Measurement
from benchmarks.results import Row, Subject
from benchmarks.rows import CurvePoint, TrainingLoss
from gradmem_core.errors import InputError
from training.checkpoints.description import describe_training
from training.recipes.schema import Recipe
from training.runs import SCALARS, STATE
from training.writers.files import load_training

PARTS = 5
"Parts of a run whose mean losses are rows; a run of fewer steps has fewer."
Scalars = Mapping[str, Mapping[int, float]]
"Values by tag and step; where a step was repeated, its last."


def measure_curve(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.")],
    name: Annotated[
        str | None, typer.Option(help="Name of the run; its folder's by default.")
    ] = None,
    trained_on: Annotated[
        str | None,
        typer.Option(help="Machine of the run, if it is not this one, for the result's notes."),
    ] = None,
) -> Measurement:
    """Read the evaluations of a training run on the selection split, and its mean losses.

    Contexts and seconds count those of the runs that it started from.
    """
    name = name or run.resolve().name
    recipe, spent = _load_state(run)
    start = None if recipe.fresh else recipe.start
    training = describe_training(recipe, load_training(start) if start else None, **spent)
    scalars = _load_scalars(run)
    earlier = {field: getattr(training, field) - spent[field] for field in ("contexts", "seconds")}
    points = [
        CurvePoint(
            run=name,
            task=recipe.task,
            step=step,
            contexts=round(earlier["contexts"] + scalars["train/contexts"][step]),
            seconds=round(earlier["seconds"] + scalars["train/seconds"][step], 1),
            size=size,
            write_steps=write_steps,
            exact_match=share,
        )
        for size, write_steps, step, share in _evaluations(scalars)
    ]
    if not points:
        raise InputError(f"{run} holds no evaluation yet: train past evaluation.every_steps")
    losses = _mean_losses(scalars["train/target_loss"])
    rows: list[Row] = [*points]
    rows += [
        TrainingLoss(run=name, task=recipe.task, part=part, parts=len(losses), loss=loss)
        for part, loss in enumerate(losses, start=1)
    ]
    torch.set_num_threads(recipe.threads)  # which the result names
    subject = Subject(checkpoint=name, fingerprint=None, training=training)
    notes = (f"trained on {trained_on}",) if trained_on else ()
    return Measurement("curves", rows, subject, seed=recipe.seed, notes=notes)


def _load_state(run: Path) -> tuple[Recipe, dict[str, Any]]:
    """Return the recipe of a run, and the contexts, tokens and seconds that it spent."""
    try:
        state = torch.load(run / STATE, weights_only=True, map_location="cpu")
    except OSError as error:
        raise InputError(f"{run} holds no {STATE}: give the folder of a training run") from error
    counters = state["counters"]
    spent = {name: counters[name] for name in ("contexts", "tokens", "seconds")}
    return Recipe.model_validate(state["recipe"]), spent


def _load_scalars(run: Path) -> Scalars:
    """Read what the sessions of a run logged."""
    scalars: dict[str, dict[int, float]] = defaultdict(dict)
    for path in sorted((run / SCALARS).glob("events.*")):
        session = EventAccumulator(str(path), size_guidance={"scalars": 0})
        session.Reload()
        for tag in session.Tags()["scalars"]:
            scalars[tag] |= {event.step: event.value for event in session.Scalars(tag)}
    return scalars


def _evaluations(scalars: Scalars) -> Iterator[tuple[int, int, int, float]]:
    """Yield size, write steps, step and exact match of every evaluation, not of its parts."""
    places = [tag.split("/")[1:] for tag in scalars if tag.startswith("selection/")]
    for size, steps in sorted(place for place in places if len(place) == 2):
        for step, share in sorted(scalars[f"selection/{size}/{steps}"].items()):
            yield int(size.split("_")[1]), int(steps.split("_")[1]), step, share


def _mean_losses(by_step: Mapping[int, float]) -> list[float]:
    """Average losses over equal parts of the steps, the first steps first."""
    losses = [by_step[step] for step in sorted(by_step)]
    parts = min(PARTS, len(losses))
    cuts = [len(losses) * part // parts for part in range(parts + 1)]
    return [round(fmean(losses[start:end]), 4) for start, end in pairwise(cuts)]
