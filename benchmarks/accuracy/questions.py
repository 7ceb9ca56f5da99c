"""Questions about texts: SQuAD's, in two halves by paragraph.

One half is for choices (page length, which page answers, calibration), the other for reports.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.tasks.asked import passage_of
from training.tasks.windows import Window

from gradmem_core.texts.paging import TextPage, split_text
from gradmem_core.tokenizer import Tokenizer
from training.tasks import Question
from training.tasks.squad import Asked, read_squad, sentence_of

Half = Literal["choices", "report"]


@dataclass(frozen=True)
class Text:
    """A text with questions that it answers."""

    text: str
    questions: tuple[Question, ...]


def read_paragraphs(file: Path, half: Half) -> list[Text]:
    """Read one half of the paragraphs of a file, in an order that does not depend on the file's.

    Args:
        file: SQuAD's JSON, or JSON lines.
        half: Which.
    """
    asked: dict[str, list[Question]] = defaultdict(list)
    for one in read_squad(file):
        if half_of(one.context) == half:
            first, *others = one.answers
            question = Question(one.question, f" {first}\n", first, tuple(others))
            asked[one.context].append(question)
    ordered = sorted(asked, key=lambda text: _digest(text)[1:])
    return [Text(text, tuple(asked[text])) for text in ordered]


def half_of(paragraph: str) -> Half:
    """Say which half a paragraph is in."""
    return "report" if _digest(paragraph)[0] % 2 else "choices"


def sentences(paragraphs: Iterable[Text]) -> list[Text]:
    """Return the sentences that hold the first answers, with their questions (Short SQuAD)."""
    asked: dict[str, list[Question]] = defaultdict(list)
    for paragraph in paragraphs:
        for question, one in zip(paragraph.questions, _asked(paragraph), strict=True):
            asked[sentence_of(one)].append(question)
    return [Text(text, tuple(questions)) for text, questions in asked.items()]


def windows(paragraphs: Iterable[Text], tokenizer: Tokenizer, most: int) -> list[Text]:
    """Return the sentences that hold an answer with their neighbours, up to `most` tokens.

    A window takes in sentences behind and before in turn. Each has every question whose sentences
    are the same to begin with.
    """
    asked: dict[str, list[Question]] = defaultdict(list)
    for paragraph in paragraphs:
        passage = passage_of(paragraph.text, _asked(paragraph))
        for question, located in zip(paragraph.questions, passage.questions, strict=True):
            window = Window(passage, located.first, located.last)
            asked[_grown(window, tokenizer, most).text].append(question)
    return [Text(text, tuple(questions)) for text, questions in asked.items()]


def _grown(window: Window, tokenizer: Tokenizer, most: int) -> Window:
    """Take in neighbours while one of them has room."""
    behind = True
    while True:
        for side in (behind, not behind):
            wider = window.widened(behind=side)
            if wider is not None and len(tokenizer.encode(wider.text)) <= most:
                window, behind = wider, not side
                break
        else:
            return window


def joined(paragraphs: Sequence[Text], size: int) -> list[list[Text]]:
    """Put paragraphs together as documents of `size`; what is left over is dropped."""
    whole = len(paragraphs) // size * size
    return [list(paragraphs[start : start + size]) for start in range(0, whole, size)]


def split_paragraphs(
    tokenizer: Tokenizer, document: Iterable[Text], page_tokens: int
) -> list[tuple[TextPage, Text]]:
    """Split paragraphs one after the other; return each page with the paragraph that it is of."""
    return [
        (page, paragraph)
        for paragraph in document
        for page in split_text(tokenizer, paragraph.text, page_tokens=page_tokens, max_pages=64)
    ]


def _asked(paragraph: Text) -> list[Asked]:
    """Return a paragraph's questions as rows of their file."""
    return [
        Asked(
            context=paragraph.text,
            question=question.query,
            answers=[question.answer, *question.also_right],
        )
        for question in paragraph.questions
    ]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
