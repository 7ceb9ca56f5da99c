"""Extractive summaries of a text: lines of it that fit into a bound, in their order."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

WORD = re.compile(r"\w+")
Size = Callable[[str], int]
"Measures a text, for instance in bytes."
Summarise = Callable[[str, Size, int], str]
"Cuts a text down to a size."


def keep_lead(text: str, size: Size, most: int) -> str:
    """Return the first lines of a text, up to a size; of the first line that does not fit nothing.

    Args:
        text: The text.
        size: The measure.
        most: The bound.
    """
    lines = text.splitlines()
    kept = next(
        (count for count in range(len(lines), 0, -1) if size("\n".join(lines[:count])) <= most), 0
    )
    return "\n".join(lines[:kept])


class TfIdf:
    """Ranks lines by the mean TF-IDF of their words (Sparck Jones, 1972).

    A word's frequency is that in the text; the documents that it is rare in are the lines of all
    texts.

    Args:
        texts: All texts.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        lines = [set(_words(line)) for text in texts for line in text.splitlines()]
        self._lines = len(lines)
        self._with_word = Counter(word for line in lines for word in line)

    def keep_best(self, text: str, size: Size, most: int) -> str:
        """Return the best lines of a text that fit together; see `keep_lead` for the arguments."""
        lines = text.splitlines()
        counts = Counter(_words(text))
        ranked = sorted(
            range(len(lines)), key=lambda number: self._score(lines[number], counts), reverse=True
        )
        kept: list[int] = []
        for number in ranked:
            longer = sorted([*kept, number])
            if lines[number] and size(_join(lines, longer)) <= most:
                kept = longer
        return _join(lines, kept)

    def _score(self, line: str, counts: Counter[str]) -> float:
        words = _words(line)
        if not words:
            return 0.0
        return fmean(counts[word] * math.log(self._lines / self._with_word[word]) for word in words)


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _join(lines: Sequence[str], numbers: Iterable[int]) -> str:
    return "\n".join(lines[number] for number in numbers)
