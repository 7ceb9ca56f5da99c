"""`gradmem-bench records`: a checkpoint for lists of records, by the path that serving takes.

Lists are parsed, split into pages, written and read as the service does it.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.accuracy.asking import ask_memory
from benchmarks.accuracy.bank import MemoryBank
from benchmarks.accuracy.lists import LISTS, PAGE, SHAPES, ListGroup, Shape, list_groups
from benchmarks.accuracy.replies import GradedAnswer, Replies
from benchmarks.command import Measurement
from benchmarks.options import CheckpointName, Seed, Steps, parsed, positive, separated
from benchmarks.results import subject_of
from benchmarks.rows import Records, RecordsFailure
from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from gradmem_core.errors import InputError
from gradmem_core.limits import check_steps
from gradmem_core.texts.documents import prepare_document
from training.writers.files import load_training

FAILURES_SHOWN = 10
"Most wrong answers of a group that a result names."
ANY_PAGES = 10**6
Shapes = Annotated[
    Sequence[Shape],
    separated(
        parse=Shape.parse,
        metavar="RECORDSxKEY+VALUE",
        help="Shapes of generated lists, separated by commas: number of records, longest key and"
        " longest value in characters.",
    ),
]
Pages = Annotated[
    Sequence[int],
    separated(
        parse=positive, help="Sizes of further generated lists, in multiples of a page's records."
    ),
]


def measure_records(
    checkpoint: CheckpointName,
    shapes: Shapes = SHAPES,
    pages: Pages = (1, 2, 4, 8, 16),
    page_shape: Annotated[
        Shape, parsed(parse=Shape.parse, metavar="SHAPE", help="Shape of a page of these.")
    ] = PAGE,
    lists: Annotated[
        Path, typer.Option(help="Folder of real lists (*.txt).", show_default="benchmarks/lists")
    ] = LISTS,
    contexts: Annotated[
        int, typer.Option(min=1, help="Number of generated lists of each shape.")
    ] = 100,
    steps: Steps = (5,),
    seed: Seed = 7,
) -> Measurement:
    """Measure answers about lists of records.

    Every list is asked for all its keys, and for as many that it does not have.
    """
    loaded = load_checkpoint(checkpoint)
    if loaded.task.document_format != "records":
        raise InputError(
            f"{checkpoint} is not for lists of records; use `lists` if it is for texts, or else"
            " `exact-match`"
        )
    for k in steps:
        check_steps(loaded.model.config, k)
    groups = list_groups(shapes, pages, lists, contexts=contexts, seed=seed, page_shape=page_shape)
    rows = (row for group in groups for row in group_rows(loaded, group, steps))
    return Measurement("records", rows, subject_of(loaded, load_training(checkpoint)))


def group_rows(
    checkpoint: Checkpoint, group: ListGroup, steps: Sequence[int]
) -> Iterator[Records | RecordsFailure]:
    """Write the lists of a group and ask for every key.

    Yields:
        For each number of steps the shares, then the first wrong answers.
    """
    config = checkpoint.model.config
    pages = [
        [page.ids for page in prepare_document(checkpoint, asked.text, max_pages=ANY_PAGES).pages]
        for asked in group.lists
    ]
    ends = list(accumulate(map(len, pages)))
    memories = MemoryBank(checkpoint).memories(list(chain.from_iterable(pages)), steps)
    for k in steps:
        parts = [
            ask_memory(
                checkpoint, memory, [asked], normalised=False, max_tokens=config.max_answer_tokens
            )
            for asked, memory in zip(group.lists, memories[k].tensor_split(ends[:-1]), strict=True)
        ]
        yield _row(checkpoint, group, Replies.merge(parts), k)
        failures = (
            RecordsFailure(
                kind=group.kind,
                name=group.name,
                write_steps=k,
                key=answer.question.query,
                expected=expected,
                answer=answer.text,
            )
            for part in parts
            for answer, expected in _expectations(part)
            if answer.text != expected
        )
        yield from islice(failures, FAILURES_SHOWN)


def _row(checkpoint: Checkpoint, group: ListGroup, replies: Replies, steps: int) -> Records:
    return Records(
        kind=group.kind,
        name=group.name,
        documents=replies.texts,
        records=len(replies.present),
        characters=sum(len(asked.text) for asked in group.lists),
        pages=replies.pages,
        write_steps=steps,
        memory_floats=checkpoint.model.initial_memory.numel(),
        exact_match=replies.exact_match,
        false_rejection_rate=replies.false_rejection_rate,
        absent_keys=len(replies.absent),
        rejection_recall=replies.rejection_recall or 0.0,
        rejection_precision=replies.rejection_precision,
    )


def _expectations(replies: Replies) -> Iterator[tuple[GradedAnswer, str | None]]:
    """Yield answers with what they should be; None for a key that the list does not have."""
    yield from ((answer, answer.question.answer) for answer in replies.present)
    yield from ((answer, None) for answer in replies.absent)
