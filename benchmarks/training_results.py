"""Result files: one JSON file for each measuring command, kept in `docs/results`.

Shares (exact match, token accuracy) are from 0 to 1, times in seconds, sizes in the task's own unit
(pairs for `kv`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from benchmarks.measurement import Count, Header, Strict
from gradmem_core.config import BlobDtype
from gradmem_core.errors import InputError
from training.problems import describe_problem
from training.writers import Training, WriteSteps

Share = Annotated[float, Field(ge=0, le=1)]


class Cell(Strict):
    """Exact match of a writer at one context size, number of write steps and kind of blob."""

    size: Count
    "Size of the contexts."
    contexts: Count
    "Contexts written."
    write_steps: WriteSteps
    "Write steps (K) asked for."
    steps_taken: Annotated[float, Field(ge=0)]
    "Mean number of write steps over the contexts."
    blob: BlobDtype | None
    "Kind of blob that the states went through; null where they were read as written."
    state_floats: Annotated[int, Field(ge=0)]
    "Numbers kept for one context."
    state_bytes: Annotated[int, Field(ge=0)]
    "Their bytes."
    exact_match: Share
    "Share of the queries answered with exactly the right value."
    token_accuracy: Share
    "Share of the values' tokens predicted, teacher-forced."
    f1: Share | None = None
    "Mean F1 of the answers' words, where the task compares normalised answers."


class Accuracy(Header):
    """What `gradmem-train evaluate` measured of one checkpoint (test split)."""

    kind: Literal["accuracy"] = "accuracy"
    checkpoint: str
    "Its name."
    fingerprint: str
    "Its fingerprint."
    writer: str
    "Kind of the writer, for instance `gradmem`, `rmt`, `full-context`."
    training: Training | None
    "How it was trained, where that is known."
    task: str
    "Name of the task."
    queries: Count
    "Queries for each context."
    cells: Annotated[tuple[Cell, ...], Field(min_length=1)]
    "The measurements."


class Point(Strict):
    """One evaluation during a training run (selection split)."""

    step: Count
    "Optimizer step."
    contexts: Count
    "Contexts that training had written by then."
    seconds: Annotated[float, Field(ge=0)]
    "Wall-clock time of the run by then, evaluations included."
    size: Count
    "Size of the evaluation's contexts."
    write_steps: WriteSteps
    "Write steps (K)."
    exact_match: Share
    "Share of the queries answered with exactly the right value."


class Curve(Header):
    """What `gradmem-train curve` read out of a training run's folder.

    Seed, seconds and threads are the run's; commit, date and the rest of the machine are those of
    the reading.
    """

    kind: Literal["curve"] = "curve"
    run: str
    "Name of the run."
    task: str = "kv"
    "Name of the task; sizes are in its unit (pairs for `kv`, characters for `records`)."
    training: Training
    "How it was trained, up to the saved state."
    points: Annotated[tuple[Point, ...], Field(min_length=1)]
    "The evaluations, by step."
    target_losses: tuple[Annotated[float, Field(ge=0)], ...] = ()
    "Mean loss of READ in training over equal parts of the run's own steps, nats per target token."


class StepTimeRow(Strict):
    """Time of a training step with one implementation."""

    name: str
    "The implementation."
    size: Count
    "Size of the contexts."
    write_steps: Count
    "Write steps (K)."
    contexts_per_second: Annotated[float, Field(gt=0)]
    "Contexts trained on a second."
    relative: Annotated[float, Field(gt=0)]
    "The same in multiples of the run's first implementation's, which is a straightforward one."
    peak_memory_bytes: Annotated[int, Field(ge=0)]
    "Most bytes of tensors allocated at once in a step."


class StepTime(Header):
    """What the step benchmark measured."""

    kind: Literal["step_time"] = "step_time"
    device: str = "cpu"
    "Where it ran: `cpu`, or the GPU's name."
    dtype: str = "float32"
    "What the backbone computed in."
    rows: Annotated[tuple[StepTimeRow, ...], Field(min_length=1)]
    "The measurements."


class Failure(Strict):
    """A wrong answer."""

    key: str
    "The query."
    expected: str | None
    "Its value; null for a key that is not in the document."
    said: str | None
    "The answer; null where the memory said that it does not know the key."


RecordsKind = Literal["shape", "pages", "list"]
"Of documents: generated of one shape, generated of several pages, real."


class RecordsCell(Strict):
    """What a checkpoint for records says of documents of one kind, at one number of write steps."""

    kind: RecordsKind
    "Kind of the documents."
    name: str
    "The shape (records x longest key + longest value), the number of pages, or the list's name."
    documents: Count
    "Documents written."
    records: Count
    "Their records; each key was asked for once."
    characters: Count
    "Their characters."
    pages: Count
    "Pages that they took."
    write_steps: Count
    "Write steps (K)."
    exact_match: Share
    "Share of the keys whose whole value was said, and nothing else."
    present_refused: Share
    "Share of the keys that are there that were refused."
    absent_keys: Count
    "Keys asked for that are not there."
    absent_refused: Share
    "Share of those that were refused: the recall of `found: false`."
    refusals_right: Share | None
    "Share of all refusals that were right: its precision; null where nothing was refused."
    failures: tuple[Failure, ...]
    "The first wrong answers."


class RecordsResult(Header):
    """What `gradmem-train evaluate-records` measured of one checkpoint (test split, real lists)."""

    kind: Literal["records"] = "records"
    checkpoint: str
    "Its name."
    fingerprint: str
    "Its fingerprint."
    training: Training | None
    "How it was trained, where that is known."
    memory_floats: Count
    "Numbers of a page's memory."
    cells: Annotated[tuple[RecordsCell, ...], Field(min_length=1)]
    "The measurements."


class TextCell(Strict):
    """How much of texts of one length memories hold, at one number of write steps."""

    tokens: Count
    "Tokens of each text."
    pieces: Count
    "Texts written."
    write_steps: Count
    "Write steps (K)."
    recovered: Share
    "Share of the tokens that greedy decoding says, each in its place."
    recall: Share
    "Share of the tokens predicted, teacher-forced, by the model as it writes."
    loss: Annotated[float, Field(ge=0)]
    "Reconstruction loss, nats per token."


class TextResult(Header):
    """What `gradmem-train reconstruct` measured of one checkpoint (test split)."""

    kind: Literal["text"] = "text"
    checkpoint: str
    "Its name."
    fingerprint: str
    "Its fingerprint."
    training: Training | None
    "How it was trained; null for one that was not."
    memory_tokens: Count
    "Vectors in a memory (m)."
    inner: Literal["gradient", "adam"]
    "How memories were written: by the checkpoint's own steps, or by Adam at a rate of 0.02."
    query: str | None
    "What stood between memory and answer; null for nothing."
    cells: Annotated[tuple[TextCell, ...], Field(min_length=1)]
    "The measurements."


Result = Accuracy | Curve | StepTime | RecordsResult | TextResult
_RESULT: TypeAdapter[Result] = TypeAdapter(Annotated[Result, Field(discriminator="kind")])


@dataclass(frozen=True)
class ResultFile:
    """A result and the name of its file."""

    name: str
    result: Result


def load_result(path: Path) -> ResultFile:
    """Read one file.

    Raises:
        InputError: It cannot be read or is no result; the error names the file and the field.
    """
    try:
        return ResultFile(path.name, _RESULT.validate_json(path.read_bytes()))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        problems = "; ".join(describe_problem(entry) for entry in error.errors())
        raise InputError(f"{path} is no result file: {problems}") from error


def load_results(folder: Path) -> list[ResultFile]:
    """Read every `*.json` of a folder, by name.

    Raises:
        InputError: The folder is missing, or one of the files is no result.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: name the one with the result files")
    return [load_result(path) for path in sorted(folder.glob("*.json"))]


def seeds_of(numbers: Iterable[int]) -> str:
    """Distinct numbers in order, for instance `1, 2, 3`."""
    return ", ".join(str(number) for number in sorted(set(numbers)))
