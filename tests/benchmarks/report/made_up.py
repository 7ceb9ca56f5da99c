"""Small results that nobody measured."""

from datetime import UTC, datetime
from typing import Any

from benchmarks.results import Machine, Result, ResultFile, Row, Subject
from benchmarks.rows import ExactMatch, Load, Questions
from gradmem_core.config import BlobDtype
from training.writers import Training, WriteSteps

BYTES = {None: 400, "float32": 400, "float16": 200, "int8": 100}


def result_file(
    *rows: Row,
    name: str = "pairs/made-up",
    recipe: str = "tiny",
    writer: str = "gradmem",
    seed: int = 1,
    **fields: Any,
) -> ResultFile:
    """Put rows into a file, measured of a run that is called like its recipe."""
    training = Training(
        recipe=recipe,
        writer=writer,
        seed=seed,
        write_steps=2,
        contexts=1000,
        tokens=9000,
        seconds=60.0,
        sizes=[8, 16],
    )
    fingerprint = f"{recipe}/{writer}/{seed}"
    described = {
        "command": "gradmem-bench made-up",
        "commit": "c0ffee" * 7,
        "machine": Machine(cpu="Abacus", cores=2, threads=1, torch="2.13.0"),
        "seed": 7,
        "seconds": 60.0,
        "date": datetime(2026, 11, 23, tzinfo=UTC),
        "subject": Subject(checkpoint=recipe, fingerprint=fingerprint, training=training),
        "rows": tuple(row.model_dump() for row in rows),
    }
    return ResultFile(name, Result.model_validate(described | fields))


def match(
    size: int,
    steps: WriteSteps,
    exact_match: float = 1.0,
    *,
    blob: BlobDtype | None = None,
    contexts: int = 10,
    writer: str = "gradmem",
    task: str = "kv",
    f1: float | None = None,
) -> ExactMatch:
    return ExactMatch(
        task=task,
        writer=writer,
        size=size,
        contexts=contexts,
        queries=2,
        write_steps=steps,
        steps_taken=3.25 if steps == "auto" else float(steps),
        blob=blob,
        state_floats=100,
        state_bytes=BYTES[blob],
        exact_match=exact_match,
        token_accuracy=1.0,
        f1=f1,
    )


def answers(section: str, condition: str, exact_match: float, **fields: Any) -> Questions:
    described = {"section": section, "data": "made up", "condition": condition, "texts": 3}
    described |= {"questions": 1234, "exact_match": exact_match, "f1": 0.5}
    return Questions.model_validate(described | fields)


def load(operation: str, run: int, via: str, concurrency: int, throughput: float) -> Load:
    mixed = operation not in ("write", "read")
    described = {"operation": operation, "run": run, "via": via, "concurrency": concurrency}
    described |= {"pairs": 16, "steps": 5, "seconds": 10.0, "throughput": throughput}
    described |= {"p50": 0.5 / throughput, "p99": 1 / throughput, "answered": 10, "failed": 1}
    return Load.model_validate(described | {"gradient_step": 0.25 if mixed else None})
