"""What a training run's folder tells: its curve and its record."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from benchmarks.measurement import header
from benchmarks.training_results import Curve, Point
from gradmem_core.errors import InputError
from training.loop.start import record_of
from training.loop.state import STATE
from training.recipe import Recipe
from training.writers import load_writer

SCALARS = "scalars"
SELECTION = "selection/"
CONTEXTS = "train/contexts"
TARGET_LOSS = "train/target_loss"
PARTS = 5
"Parts of a run whose mean losses are told."


def read_curve(run: Path, *, name: str, command: str, started: float) -> Curve:
    """Make the curve of a run from its TensorBoard scalars and its saved state.

    Contexts and seconds count those of the runs that it started from. Seconds are the run's own
    wall-clock time: what passed between two sessions is left out, as are steps that were repeated.

    Args:
        run: The run's folder.
        name: What the run is called.
        command: The command line that asks.
        started: `time.perf_counter()` at its start.

    Raises:
        InputError: The folder holds no run, or one without an evaluation.
    """
    recipe, counters = _state(run)
    before = load_writer(recipe.start).training if recipe.start and not recipe.fresh else None
    contexts, seconds = (before.contexts, before.seconds) if before else (0, 0.0)
    written = {step: round(value) for step, value in _scalar(run, CONTEXTS).items()}
    points = [
        Point(
            step=step,
            contexts=contexts + written[step],
            seconds=round(seconds + elapsed, 1),
            size=size,
            write_steps=write_steps,
            exact_match=share,
        )
        for (step, size, write_steps), (elapsed, share) in sorted(_evaluations(run).items())
    ]
    if not points:
        raise InputError(f"{run} holds no evaluation yet: train past evaluation.every_steps")
    spent = {name: counters[name] for name in ("contexts", "tokens", "seconds")}
    training = record_of(recipe, before, **spent)
    made = header(command, seed=recipe.seed, started=started)
    machine = made.machine.model_copy(update={"threads": recipe.threads})
    described = made.model_copy(update={"seconds": training.seconds, "machine": machine})
    return Curve(
        **dict(described),
        run=name,
        task=recipe.task,
        training=training,
        points=tuple(points),
        target_losses=_target_losses(run),
    )


def _state(run: Path) -> tuple[Recipe, dict[str, Any]]:
    """The recipe and the counters of a run."""
    try:
        state = torch.load(run / STATE, weights_only=True)
        return Recipe.model_validate(state["recipe"]), state["counters"]
    except OSError as error:
        raise InputError(f"{run} holds no {STATE}: give the folder of a training run") from error


def _evaluations(run: Path) -> dict[tuple[int, int, int], tuple[float, float]]:
    """Seconds and exact match of every evaluation, by step, size and K."""
    found: dict[tuple[int, int, int], tuple[float, float]] = {}
    reached: dict[int, float] = {0: 0.0}  # seconds by step
    for session in _sessions(run):
        events = [
            (event.step, event.wall_time, tag, event.value)
            for tag in session.Tags()["scalars"]
            for event in session.Scalars(tag)
        ]
        if not events:
            continue
        before = min(step for step, *_ in events) - 1
        spent = max((t for step, t in reached.items() if step <= before), default=0.0)
        opened = session.FirstEventTimestamp()
        for step, wall, tag, value in sorted(events, key=lambda event: event[1]):
            reached[step] = spent + wall - opened
            if tag.startswith(SELECTION) and tag.count("/") == 2:  # not a part of a mixture
                size, steps = (int(part.split("_")[1]) for part in tag.split("/")[1:])
                found[step, size, steps] = (reached[step], float(value))
    return found


def _target_losses(run: Path) -> tuple[float, ...]:
    """Means over equal parts of the steps, the first steps first; fewer where there are fewer."""
    by_step = _scalar(run, TARGET_LOSS)
    losses = [by_step[step] for step in sorted(by_step)]
    parts = min(PARTS, len(losses))
    cuts = [len(losses) * part // parts for part in range(parts + 1)] if parts else []
    return tuple(round(fmean(losses[start:end]), 4) for start, end in pairwise(cuts))


def _scalar(run: Path, tag: str) -> dict[int, float]:
    """Return a scalar's values by step; where a step was repeated, its last value."""
    by_step: dict[int, float] = {}
    for session in _sessions(run):
        if tag in session.Tags()["scalars"]:
            by_step |= {event.step: event.value for event in session.Scalars(tag)}
    return by_step


def _sessions(run: Path) -> Iterator[Any]:
    """What each session of a run logged, by time."""
    for path in sorted((run / SCALARS).glob("events.*")):
        session = EventAccumulator(str(path), size_guidance={"scalars": 0})
        session.Reload()
        yield session
