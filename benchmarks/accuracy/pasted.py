"""Texts as people paste them, with questions: lists, tables, configurations, logs, code, a mail.

They lie in `benchmarks/texts` and are for reports alone: no checkpoint is trained or tuned on them.
"""

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, ValidationError

from benchmarks.accuracy.replies import AskedText
from benchmarks.results import Strict
from gradmem_core.errors import DataError
from training.evaluation.grading import normalise
from training.problems import describe_problem
from training.tasks import Question

TEXTS = Path(__file__).parents[1] / "texts"
Line = Annotated[str, StringConstraints(pattern=r"^\S(.*\S)?$")]
"Some text without blanks around it, on one line."


class _Entry(Strict):
    """A question of a file."""

    ask: Line
    answers: list[Line]
    "All that count, the first as the text has it; none where the text does not say."

    def question(self) -> Question:
        """Return the question as tasks have it."""
        first, *others = self.answers or [""]
        return Question(self.ask, f" {first}\n", first, tuple(others))


class _Entries(Strict):
    """The questions about a text: the contents of its `.toml`."""

    questions: Annotated[list[_Entry], Field(min_length=1)]


def read_texts(folder: Path = TEXTS) -> dict[str, AskedText]:
    """Read the texts of a folder by their names, in the order of these.

    Args:
        folder: Where each `NAME.txt` has its questions beside it, in `NAME.toml`.

    Raises:
        DataError: There are none, a text's questions are missing or malformed, or the first answer
            to a question is not in its text.
    """
    texts = {file.stem: _read(file) for file in sorted(folder.glob("*.txt"))}
    if not texts:
        raise DataError(f"{folder} has no texts: they are called NAME.txt")
    return texts


def _read(file: Path) -> AskedText:
    text, beside = file.read_text(encoding="utf-8").rstrip("\n"), file.with_suffix(".toml")
    entries = _entries(beside)
    for entry in entries:
        if entry.answers and normalise(entry.answers[0]) not in normalise(text):
            raise DataError(f"{beside}: {entry.ask!r}: {entry.answers[0]!r} is not in {file.name}")
    return AskedText(
        text,
        present=tuple(entry.question() for entry in entries if entry.answers),
        absent=tuple(entry.question() for entry in entries if not entry.answers),
    )


def _entries(file: Path) -> list[_Entry]:
    try:
        contents = tomllib.loads(file.read_text(encoding="utf-8"))
        return _Entries.model_validate(contents).questions
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from error
    except ValidationError as error:
        raise DataError(f"{file}: {describe_problem(error.errors()[0])}") from error
    except ValueError as error:
        raise DataError(f"{file}: {error}") from error
