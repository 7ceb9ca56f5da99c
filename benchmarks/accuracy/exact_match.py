"""Measures a trained writer over a grid of sizes, write steps and kinds of blobs."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from tqdm import tqdm

from benchmarks.measurement import header
from benchmarks.training_results import Accuracy, Cell
from gradmem_core.config import BlobDtype
from training.evaluation.scores import evaluate
from training.tasks import task_by_name
from training.writers import WriteSteps, load_writer
from training.writers.rivals import rival_of


@dataclass(frozen=True)
class Grid:
    """What to measure: every size with every K and every kind of blob."""

    sizes: Sequence[int]
    "Context sizes."
    write_steps: Sequence[WriteSteps] | None
    "Write steps (K); None for the writer's own."
    blobs: Sequence[BlobDtype | None]
    "Kinds of blobs; None reads states as they were written."
    contexts: int
    "Contexts of each cell."
    queries: int
    "Queries for each context."


def measure(
    reference: str,
    task: str | None,
    grid: Grid,
    *,
    seed: int,
    command: str,
    data: Path | None = None,
    rival: str | None = None,
) -> Accuracy:
    """Measure a checkpoint on the test split.

    Args:
        reference: Its folder, or the name of a bundled one.
        task: Name of the task; None for the checkpoint's own.
        grid: What to measure.
        seed: Seed of the test split.
        command: The command line that asks.
        data: Where the task's files are.
        rival: Measure this rival on the checkpoint's backbone in its place.

    Raises:
        CheckpointError: There is no such checkpoint.
        InputError: A cell of the grid is beyond what the writer can do.
    """
    started = time.perf_counter()
    loaded = load_writer(reference)
    chosen = task_by_name(task or loaded.form.card.name, data)
    writer = loaded.writer if rival is None else rival_of(rival, loaded.writer)
    own = getattr(writer.config, "write_steps", 1)  # a forward writer's single pass
    places = list(product(grid.sizes, grid.write_steps or [own], grid.blobs))
    cells = []
    for size, write_steps, blob in tqdm(places, unit="cell", disable=not sys.stderr.isatty()):
        score = evaluate(
            writer,
            loaded.form,
            chosen,
            size=size,
            contexts=grid.contexts,
            queries=grid.queries,
            write_steps=write_steps,
            seed=seed,
            split="test",
            blob_dtype=blob,
        )
        cells.append(
            Cell(
                size=size,
                contexts=score.contexts,
                write_steps=write_steps,
                steps_taken=score.steps_taken,
                blob=blob,
                state_floats=score.state_floats,
                state_bytes=score.state_bytes,
                exact_match=score.exact_match,
                f1=score.f1,
                token_accuracy=score.token_accuracy,
            )
        )
    return Accuracy(
        **header(command, seed=seed, started=started).model_dump(),
        checkpoint=loaded.name,
        fingerprint=loaded.fingerprint,
        writer=writer.kind,
        training=loaded.training,
        task=chosen.name,
        queries=grid.queries,
        cells=tuple(cells),
    )
