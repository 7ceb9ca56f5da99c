"""Small results that nobody measured."""

from datetime import UTC, datetime
from typing import Any

from benchmarks.measurement import Machine
from benchmarks.training_results import (
    Accuracy,
    Cell,
    Curve,
    Failure,
    Point,
    RecordsCell,
    RecordsKind,
    RecordsResult,
    StepTime,
    StepTimeRow,
    TextCell,
    TextResult,
)
from gradmem_core.config import BlobDtype
from training.writers import Training, WriteSteps

HEADER: dict[str, Any] = {
    "command": "gradmem-train made-up",
    "commit": "c0ffee",
    "machine": Machine(cpu="Abacus", cores=2, threads=1, torch="2.13.0"),
    "seed": 7,
    "seconds": 60.0,
    "date": datetime(2026, 11, 23, tzinfo=UTC),
}
BYTES = {None: 400, "float32": 400, "float16": 200, "int8": 100}


def training(recipe: str = "tiny", *, seed: int = 1, writer: str = "gradmem") -> Training:
    return Training(
        recipe=recipe,
        writer=writer,
        seed=seed,
        write_steps=2,
        contexts=1000,
        tokens=9000,
        seconds=60.0,
        sizes=[8],
    )


def cell(
    size: int,
    steps: WriteSteps,
    exact_match: float = 1.0,
    *,
    blob: BlobDtype | None = None,
    contexts: int = 10,
    taken: float = 3.25,
) -> Cell:
    return Cell(
        size=size,
        contexts=contexts,
        write_steps=steps,
        steps_taken=taken if steps == "auto" else float(steps),
        blob=blob,
        state_floats=100,
        state_bytes=BYTES[blob],
        exact_match=exact_match,
        token_accuracy=1.0,
    )


def accuracy(
    *cells: Cell,
    recipe: str = "tiny",
    seed: int = 1,
    writer: str = "gradmem",
    task: str = "kv",
) -> Accuracy:
    return Accuracy(
        **HEADER,
        checkpoint=recipe,
        fingerprint=f"{recipe}/{writer}/{seed}",
        writer=writer,
        training=training(recipe, seed=seed, writer=writer),
        task=task,
        queries=2,
        cells=cells,
    )


def curve(run: str, *shares: float, task: str = "kv") -> Curve:
    points = [
        Point(
            step=10 * n,
            contexts=160 * n,
            seconds=60.0 * n,
            size=8,
            write_steps=2,
            exact_match=share,
        )
        for n, share in enumerate(shares or (0.25, 0.95), start=1)
    ]
    return Curve(
        **HEADER,
        run=run,
        task=task,
        training=training(run),
        points=tuple(points),
        target_losses=(2.0, 0.25),
    )


def step_time() -> StepTime:
    rows = [("unrolled", 10.0, 1.0), ("fused", 15.0, 1.5)]
    return StepTime(
        **HEADER,
        rows=tuple(
            StepTimeRow(
                name=name,
                size=8,
                write_steps=2,
                contexts_per_second=speed,
                relative=relative,
                peak_memory_bytes=2**30,
            )
            for name, speed, relative in rows
        ),
    )


def text() -> TextResult:
    """Texts of 16 tokens at two numbers of write steps."""
    cells = tuple(
        TextCell(tokens=16, pieces=8, write_steps=k, recovered=0.25, recall=0.5, loss=2.0)
        for k in (1, 5)
    )
    return TextResult(
        **HEADER,
        checkpoint="tiny",
        fingerprint="tiny/text",
        training=training("tiny"),
        memory_tokens=8,
        inner="gradient",
        query=None,
        cells=cells,
    )


def records() -> RecordsResult:
    """A shape, a number of pages and a real list."""
    kinds: list[tuple[RecordsKind, str]] = [
        ("shape", "8x10+10"),
        ("pages", "2"),
        ("list", "ports"),
    ]
    return RecordsResult(
        **HEADER,
        checkpoint="tiny",
        fingerprint="tiny/records",
        training=training("tiny"),
        memory_floats=100,
        cells=tuple(
            RecordsCell(
                kind=kind,
                name=name,
                documents=10,
                records=80,
                characters=1500,
                pages=10,
                write_steps=5,
                exact_match=0.975,
                present_refused=0.0125,
                absent_keys=80,
                absent_refused=0.95,
                refusals_right=0.987 if kind == "shape" else None,
                failures=(Failure(key="ssh", expected="22", said=None),),
            )
            for kind, name in kinds
        ),
    )
