"""`gradmem-bench exact-match`: a trained writer over a grid of sizes, write steps and blobs."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, get_args

import typer

from benchmarks.command import Measurement, Topic
from benchmarks.options import CheckpointName, Seed, one_of, positive, separated
from benchmarks.results import Subject
from benchmarks.rows import ExactMatch
from gradmem_core.config import BlobDtype
from training.evaluation.scores import evaluate
from training.tasks import build_task
from training.writers import WriteSteps, load_writer
from training.writers.baselines import build_baseline

TOPICS: dict[str, Topic] = {"kv": "pairs", "records": "records", "text": "texts"}
"Topics of tasks; all others are stories and questions."


def _write_steps(text: str) -> WriteSteps:
    return "auto" if text == "auto" else positive(text)


Sizes = Annotated[
    Sequence[int],
    separated("--sizes", "--pairs", parse=positive, help="Sizes of contexts, in pairs for `kv`."),
]
StepsOrAuto = Annotated[
    Sequence[WriteSteps] | None,
    separated(
        parse=_write_steps,
        metavar="N,auto",
        help="Numbers of write steps (K), for instance 1,2,auto; by default the checkpoint's own.",
    ),
]
Blobs = Annotated[
    Sequence[BlobDtype] | None,
    separated(
        parse=one_of(get_args(BlobDtype)),
        metavar="DTYPES",
        help="Dtypes to store memories in before they are read: float32, float16, int8; by default"
        " they are read as written.",
    ),
]


def measure_exact_match(
    checkpoint: CheckpointName,
    task: Annotated[
        str | None, typer.Option(help="Name of the task; by default the checkpoint's own.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the task's files.")] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            "--rival",
            help="Measure the checkpoint's backbone without the memory: full-context, first-tokens"
            " (as many as the memory has vectors) or no-context.",
        ),
    ] = None,
    sizes: Sizes = (16,),
    contexts: Annotated[int, typer.Option(min=1, help="Number of contexts of each size.")] = 200,
    queries: Annotated[int, typer.Option(min=1, help="Number of queries for each context.")] = 16,
    steps: StepsOrAuto = None,
    blob: Blobs = None,
    seed: Seed = 7,
) -> Measurement:
    """Measure exact match on unseen contexts.

    Their seeds serve neither training nor selection. Every size is measured with every K and every
    dtype of the blob.
    """
    loaded = load_writer(checkpoint)
    source = build_task(task or loaded.form.card.name, data)
    writer = loaded.writer if baseline is None else build_baseline(baseline, loaded.writer)
    own = getattr(writer.config, "write_steps", 1)  # a forward writer's single pass

    def measure(size: int, write_steps: WriteSteps, dtype: BlobDtype | None) -> ExactMatch:
        score = evaluate(
            writer,
            loaded.form,
            source,
            size=size,
            contexts=contexts,
            queries=queries,
            write_steps=write_steps,
            seed=seed,
            split="test",
            blob_dtype=dtype,
        )
        return ExactMatch(
            task=source.name,
            writer=writer.kind,
            size=size,
            queries=queries,
            write_steps=write_steps,
            blob=dtype,
            **vars(score),
        )

    blobs: Sequence[BlobDtype | None] = blob or [None]
    grid = product(sizes, steps or [own], blobs)
    subject = Subject(
        checkpoint=loaded.name, fingerprint=loaded.fingerprint, training=loaded.training
    )
    topic = TOPICS.get(source.name, "stories")
    return Measurement(topic, (measure(*place) for place in grid), subject)
