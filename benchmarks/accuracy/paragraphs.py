"""SQuAD's paragraphs with their questions, in two halves by paragraph.

One half is for choices (page length, which page answers, calibration), the other for reports.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

from benchmarks.accuracy.replies import AskedText
from gradmem_core.errors import DataError
from gradmem_core.texts.paging import Page, split_text
from gradmem_core.tokenizer import Tokenizer
from training.tasks import Question
from training.tasks.passages.squad import cut_passage
from training.tasks.prose import Window
from training.tasks.squad import SquadQuestion, read_squad

Half = Literal["choices", "report"]
Context = Callable[[SquadQuestion], str]
"Chooses the text that a question is asked of."


def read_paragraphs(
    file: Path, half: Half, *, count: int | None = None, context: Context | None = None
) -> list[AskedText]:
    """Read one half of the paragraphs of a file, in an order that does not depend on the file's.

    Args:
        file: SQuAD's JSON, or JSON lines.
        half: Which.
        count: Most paragraphs; None for all.
        context: Cuts down a paragraph for each question; what is cut down to the same text is one.

    Raises:
        DataError: The file cannot be read, is malformed, or has no paragraph in that half.
    """
    paragraphs: dict[str, list[SquadQuestion]] = defaultdict(list)
    for asked in read_squad(file):
        if half_of(asked.context) == half:
            paragraphs[asked.context].append(asked)
    texts: dict[str, list[Question]] = defaultdict(list)
    for text in sorted(paragraphs, key=lambda text: _digest(text)[1:])[:count]:
        for asked in paragraphs[text]:
            first, *others = asked.answers
            question = Question(asked.question, f" {first}\n", first, tuple(others))
            texts[context(asked) if context else text].append(question)
    if not texts:
        raise DataError(f"{file} has no paragraph in the half for {half}")
    return [AskedText(text, tuple(questions)) for text, questions in texts.items()]


def half_of(paragraph: str) -> Half:
    """Return the half that a paragraph is in."""
    return "report" if _digest(paragraph)[0] % 2 else "choices"


def find_window(asked: SquadQuestion, tokenizer: Tokenizer, most: int) -> str:
    """Return the sentences that hold an answer with their neighbours, up to `most` tokens.

    It takes in sentences behind and before in turn, while one of them has room.
    """
    passage = cut_passage(asked.context, [asked])
    window = Window(passage, passage.questions[0].first, passage.questions[0].last)
    behind = True
    while True:
        for side in (behind, not behind):
            wider = window.widen(behind=side)
            if wider is not None and len(tokenizer.encode(wider.text)) <= most:
                window, behind = wider, not side
                break
        else:
            return window.text


def join_paragraphs(paragraphs: Sequence[AskedText], size: int) -> list[list[AskedText]]:
    """Put paragraphs together as documents of `size`; what is left over is dropped.

    What each paragraph does not answer is the first question of its counterpart in the next
    document.
    """
    whole = len(paragraphs) // size * size
    asked = [
        AskedText(text.text, text.present, paragraphs[(place + size) % whole].present[:1])
        for place, text in enumerate(paragraphs[:whole])
    ]
    return [asked[start : start + size] for start in range(0, whole, size)]


def split_texts(
    tokenizer: Tokenizer, texts: Iterable[AskedText], page_tokens: int
) -> list[tuple[Page, AskedText]]:
    """Split texts one after the other; return each page with the text that it is of."""
    return [
        (page, text)
        for text in texts
        for page in split_text(tokenizer, text.text, page_tokens=page_tokens, max_pages=64)
    ]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
