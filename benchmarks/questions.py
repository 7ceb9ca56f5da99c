"""Questions about texts: SQuAD's, in two halves by paragraph.

One half is for choices (page length, which page answers, calibration), the other for reports.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.tasks.squad import Asked, read_squad, sentence_of

Half = Literal["choices", "report"]


@dataclass(frozen=True)
class Question:
    """A question with the answers that count as right; none where the text does not say."""

    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Paragraph:
    """A paragraph with its questions."""

    text: str
    questions: tuple[Question, ...]


def read_paragraphs(file: Path, half: Half) -> list[Paragraph]:
    """Read one half of the paragraphs of a file, in an order that does not depend on the file's.

    Args:
        file: SQuAD's JSON, or JSON lines.
        half: Which.
    """
    asked: dict[str, list[Question]] = defaultdict(list)
    for one in read_squad(file):
        if half_of(one.context) == half:
            asked[one.context].append(Question(one.question, tuple(one.answers)))
    return [
        Paragraph(text, tuple(asked[text])) for text in sorted(asked, key=lambda t: _digest(t)[1:])
    ]


def half_of(paragraph: str) -> Half:
    """Say which half a paragraph is in."""
    return "report" if _digest(paragraph)[0] % 2 else "choices"


def sentence_questions(paragraphs: Iterable[Paragraph]) -> list[tuple[str, Question]]:
    """Return each question with the sentence that holds its first answer (Short SQuAD)."""
    found = []
    for paragraph in paragraphs:
        for question in paragraph.questions:
            asked = Asked(
                context=paragraph.text, question=question.text, answers=list(question.answers)
            )
            found.append((sentence_of(asked), question))
    return found


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
