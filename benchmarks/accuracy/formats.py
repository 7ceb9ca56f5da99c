"""Texts as people paste them, with questions: lists, tables, configurations, logs, code, a mail.

They lie in `benchmarks/texts` and are for reports alone: no checkpoint is trained or tuned on them.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, ValidationError

from benchmarks.measurement import Strict
from gradmem_core.errors import DataError
from training.evaluation.grading import normalise
from training.tasks import Question

TEXTS = Path(__file__).parents[1] / "texts"
Line = Annotated[str, StringConstraints(pattern=r"^\S(.*\S)?$")]
"Some text without blanks around it, on one line."


class Asked(Strict):
    """A question of a file."""

    ask: Line
    answers: list[Line]
    "All that count, the first as the text has it; none where the text does not say."

    def question(self) -> Question:
        """Return the question as others are."""
        first, *others = self.answers or [""]
        return Question(self.ask, f" {first}\n", first, tuple(others))


class Questions(Strict):
    """The questions about a text: the contents of its `.toml`."""

    questions: Annotated[list[Asked], Field(min_length=1)]


@dataclass(frozen=True)
class AskedText:
    """A text with questions that it answers, and others."""

    text: str
    present: tuple[Question, ...]
    absent: tuple[Question, ...]


def read_texts(folder: Path = TEXTS) -> dict[str, AskedText]:
    """Read the texts of a folder by their names, in the order of these.

    Args:
        folder: Where each `NAME.txt` has its questions beside it, in `NAME.toml`.

    Raises:
        DataError: There are none, a text's questions are missing or malformed, or the first answer
            to a question is not in its text.
    """
    found = {file.stem: _read(file) for file in sorted(folder.glob("*.txt"))}
    if not found:
        raise DataError(f"{folder} has no texts: they are called NAME.txt")
    return found


def _read(file: Path) -> AskedText:
    text, beside = file.read_text(encoding="utf-8").rstrip("\n"), file.with_suffix(".toml")
    asked = _questions(beside)
    for one in asked:
        if one.answers and normalise(one.answers[0]) not in normalise(text):
            raise DataError(f"{beside}: {one.ask!r}: {one.answers[0]!r} is not in {file.name}")
    return AskedText(
        text,
        present=tuple(one.question() for one in asked if one.answers),
        absent=tuple(one.question() for one in asked if not one.answers),
    )


def _questions(file: Path) -> Sequence[Asked]:
    try:
        contents = tomllib.loads(file.read_text(encoding="utf-8"))
        return Questions.model_validate(contents).questions
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: {_reason(error)}") from error


def _reason(error: OSError | ValueError) -> str:
    """Say in a line what is wrong with a file."""
    if isinstance(error, OSError):
        return str(error.strerror)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)
