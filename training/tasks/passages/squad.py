"""Passages of question-answering data: paragraphs in sentences, from files of SQuAD's form."""

from bisect import bisect_right
from collections import defaultdict
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from gradmem_core.errors import DataError
from training.seeds import Split
from training.tasks.files import held_out
from training.tasks.passages.base import Passage, PassageQuestion, PassageSource
from training.tasks.squad import SquadQuestion, read_squad, sentence_cuts, squad_file

MOST_WEIGHT = 6
"Questions above which a paragraph is drawn no more often."


class SquadPassages(PassageSource):
    """Paragraphs with the questions that people asked about them, and answers that are spans.

    Paragraphs are held out for selection as a whole; `valid` is the test split.

    Args:
        folder: Where `train.jsonl` and `valid.jsonl` are, or SQuAD's own files.
    """

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self._folder = folder
        self._read: dict[Split, tuple[list[Passage], list[int]]] = {}

    def draw(self, rng: np.random.Generator, split: Split) -> Passage:
        """Draw a paragraph, more often the more questions it has, up to MOST_WEIGHT.

        Raises:
            DataError: A file is missing or malformed, or has nothing for the split.
        """
        passages, ends = self._passages(split)
        return passages[bisect_right(ends, rng.integers(ends[-1]))]

    def _passages(self, split: Split) -> tuple[list[Passage], list[int]]:
        """Return a split's paragraphs, and the sums of their weights up to each of them."""
        if split not in self._read:
            file = squad_file(self._folder, test=split == "test")
            passages = [
                cut_passage(text, asked)
                for text, asked in _by_paragraph(file).items()
                if split == "test" or held_out(text) == (split == "selection")
            ]
            if not passages:
                raise DataError(f"{file} has no paragraph for the {split} split")
            weights = (min(len(passage.questions), MOST_WEIGHT) for passage in passages)
            self._read[split] = (passages, list(accumulate(weights)))
        return self._read[split]


def cut_passage(text: str, asked: list[SquadQuestion]) -> Passage:
    """Take a paragraph apart into sentences, and find those that answer each question."""
    cuts = [0, *sentence_cuts(text), len(text)]
    pieces = [text[start:end] for start, end in pairwise(cuts) if start < end]
    starts = cuts[: len(pieces)]
    return Passage(tuple(pieces), tuple(_question(one, starts) for one in asked))


def _question(asked: SquadQuestion, starts: list[int]) -> PassageQuestion:
    place = asked.context.index(asked.answers[0])
    end = place + len(asked.answers[0])
    first, last = (bisect_right(starts, at) - 1 for at in (place, max(place, end - 1)))
    return PassageQuestion(asked.question.strip(), tuple(asked.answers), first, last)


def _by_paragraph(file: Path) -> dict[str, list[SquadQuestion]]:
    found: dict[str, list[SquadQuestion]] = defaultdict(list)
    for asked in read_squad(file):
        found[asked.context].append(asked)
    return found
