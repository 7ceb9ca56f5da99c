"""Measures a checkpoint for lists of records, by the path that serving takes.

Documents are parsed, split into pages, written and read as the service does it; keys that are there
and keys that are not are asked for.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.measurement import header
from benchmarks.training_results import Failure, RecordsCell, RecordsKind, RecordsResult
from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from gradmem_core.errors import InputError
from gradmem_core.padding import pad_right
from gradmem_core.reading.decoding import Sampling
from gradmem_core.reading.generation import answer_queries
from gradmem_core.texts.documents import decode_answer, prepare_document, prepare_query
from gradmem_core.texts.records import parse_records
from gradmem_core.writing.descent import write
from training.seeds import stream
from training.tasks.records import draw_absent_key, draw_records
from training.writers import load_writer

FAILURES_SHOWN = 10
"Most wrong answers that a result names."
PAGES_AT_ONCE = 16
ANY_PAGES = 10**6
CATALOGUE = 7
"Place in the test split of the keys that real lists do not have."


@dataclass(frozen=True)
class Shape:
    """Documents of a number of records, and the most characters of their keys and values."""

    records: int
    longest_key: int
    longest_value: int

    def __str__(self) -> str:
        """As the command line and the tables write it."""
        return f"{self.records}x{self.longest_key}+{self.longest_value}"


@dataclass(frozen=True)
class Asked:
    """A document and what is asked of it."""

    document: str
    present: dict[str, str]
    "Keys that are there, with their values."
    absent: list[str]
    "Keys that are not."


@dataclass(frozen=True)
class Plan:
    """What to measure: every shape, every number of pages and every list with every K."""

    shapes: Sequence[Shape]
    pages: Sequence[int]
    "Documents of so many times the records of `page_shape`."
    page_shape: Shape
    "Records of a page."
    lists: Path | None
    "Folder of real lists, `*.txt`."
    write_steps: Sequence[int]
    "Write steps (K)."
    contexts: int
    "Documents of each shape."


def parse_shape(text: str) -> Shape:
    """Read `8x10+10`.

    Raises:
        InputError: It is written otherwise.
    """
    try:
        records, lengths = text.strip().split("x")
        key, value = lengths.split("+")
        return Shape(int(records), int(key), int(value))
    except ValueError as error:
        raise InputError(f"{text!r} is not a shape: write RECORDSxKEY+VALUE, as 8x10+10") from error


def measure_records(reference: str, plan: Plan, *, seed: int, command: str) -> RecordsResult:
    """Measure a checkpoint for records on the test split and on real lists.

    Args:
        reference: Its folder, or the name of a bundled one.
        plan: What to measure.
        seed: Seed of the test split.
        command: The command line that asks.

    Raises:
        CheckpointError: There is no such checkpoint.
        InputError: It is for other documents, or a list cannot be used.
    """
    started = time.perf_counter()
    checkpoint = load_checkpoint(reference)
    if checkpoint.task.document_format != "records":
        raise InputError(f"{reference} is not for lists of records; measure it by `evaluate`")
    cells = []
    places = [(group, k) for group in draw_groups(plan, seed) for k in plan.write_steps]
    for (kind, name, asked), k in tqdm(places, unit="cell", disable=not sys.stderr.isatty()):
        cells.append(score(checkpoint, asked, write_steps=k, kind=kind, name=name))
    return RecordsResult(
        **header(command, seed=seed, started=started).model_dump(),
        checkpoint=checkpoint.name,
        fingerprint=checkpoint.fingerprint,
        training=load_writer(reference).training,
        memory_floats=checkpoint.model.initial_memory.numel(),
        cells=tuple(cells),
    )


def score(
    checkpoint: Checkpoint,
    asked: Sequence[Asked],
    *,
    write_steps: int,
    kind: RecordsKind,
    name: str,
) -> RecordsCell:
    """Write documents and ask for every key.

    Args:
        checkpoint: What writes and reads.
        asked: The documents with their questions.
        write_steps: Write steps (K).
        kind: Kind of the documents.
        name: Which of them.
    """
    pages, right, missed, refused = 0, 0, 0, 0
    failures: list[Failure] = []
    for one in asked:
        keys = [*one.present, *one.absent]
        count, said = _answers(checkpoint, one.document, keys, write_steps)
        pages += count
        for key, answer in zip(keys, said, strict=True):
            expected = one.present.get(key)
            right += expected is not None and answer == expected
            missed += expected is not None and answer is None
            refused += expected is None and answer is None
            if answer != expected:
                failures.append(Failure(key=key, expected=expected, said=answer))
    present = sum(len(one.present) for one in asked)
    absent = sum(len(one.absent) for one in asked)
    return RecordsCell(
        kind=kind,
        name=name,
        documents=len(asked),
        records=present,
        characters=sum(len(one.document) for one in asked),
        pages=pages,
        write_steps=write_steps,
        exact_match=right / present,
        present_refused=missed / present,
        absent_keys=absent,
        absent_refused=refused / absent,
        refusals_right=refused / (refused + missed) if refused + missed else None,
        failures=tuple(failures[:FAILURES_SHOWN]),
    )


def real_lists(folder: Path) -> dict[str, str]:
    """The lists of a folder by their files' names.

    Raises:
        InputError: There are none, or one cannot be read.
    """
    try:
        texts = {path.stem: path.read_text() for path in sorted(folder.glob("*.txt"))}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"a list in {folder} cannot be read: {error}") from error
    if not texts:
        raise InputError(f"there is no list (*.txt) in {folder}")
    return texts


def draw_groups(plan: Plan, seed: int) -> Iterator[tuple[RecordsKind, str, list[Asked]]]:
    """Draw the documents of every shape and every number of pages, then read the lists.

    Args:
        plan: Which.
        seed: Seed of the test split.

    Yields:
        Kind, name and documents of each.

    Raises:
        InputError: There is no list, or one cannot be read.
    """
    for number, shape in enumerate(plan.shapes):
        drawn = [_drawn(shape, seed, 0, number, i) for i in range(plan.contexts)]
        yield "shape", str(shape), drawn
    for pages in plan.pages:
        page = plan.page_shape
        whole = Shape(pages * page.records, page.longest_key, page.longest_value)
        count = max(1, plan.contexts // pages)
        yield "pages", str(pages), [_drawn(whole, seed, 1, pages, i) for i in range(count)]
    texts = {} if plan.lists is None else real_lists(plan.lists)
    for name, text in texts.items():
        yield "list", name, [_listed(text, seed)]


def _drawn(shape: Shape, seed: int, *place: int) -> Asked:
    """A generated document; it asks for as many keys that are not there as are."""
    rng = stream("test", seed, *place)
    drawn = draw_records(
        rng,
        longest_key=shape.longest_key,
        longest_value=shape.longest_value,
        most=shape.records,
    )
    present = {record.key: record.value for record in drawn.records}
    absent = [draw_absent_key(rng, key, drawn.records, alike=drawn.keys) for key in present]
    return Asked(drawn.document, present, absent)


def _listed(text: str, seed: int) -> Asked:
    """A real list; a quarter of the keys that it is asked for in vain are near to its own."""
    records = parse_records(text).records
    present = {record.key: record.value for record in records}
    rng = stream("test", seed, CATALOGUE)
    absent = [draw_absent_key(rng, key, records) for key in present]
    return Asked(text, present, absent)


def _answers(
    checkpoint: Checkpoint, document: str, keys: Sequence[str], write_steps: int
) -> tuple[int, list[str | None]]:
    """How many pages a document took, and what its memory says of each key."""
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    pages = [page.ids for page in prepare_document(checkpoint, document, max_pages=ANY_PAGES).pages]
    memory = torch.cat(
        [
            write(
                model,
                pad_right(part, tokenizer.pad_id),
                torch.tensor([len(ids) for ids in part]),
                write_steps,
                create_graph=False,
                measure=False,
            ).memory
            for part in (
                pages[start : start + PAGES_AT_ONCE]
                for start in range(0, len(pages), PAGES_AT_ONCE)
            )
        ]
    )  # (p, m, d)
    queries = [prepare_query(checkpoint, key) for key in keys]
    sampling = [Sampling(max_new_tokens=model.config.max_answer_tokens)] * len(queries)
    answers = answer_queries(checkpoint, memory, queries, sampling)
    return len(pages), [decode_answer(checkpoint, answer) for answer in answers]
