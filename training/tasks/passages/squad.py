"""Paragraphs of question-answering data, cut into sentences, from files of SQuAD's form."""

from bisect import bisect_right
from collections import defaultdict
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from gradmem_core.errors import DataError
from training.seeds import Split
from training.tasks.files import is_held_out
from training.tasks.passages.base import Passage, PassageQuestion, PassageSource
from training.tasks.squad import SquadQuestion, find_cuts, find_squad_file, read_squad

MOST_WEIGHT = 6
"Most questions that count when a paragraph is drawn in proportion to its questions."


class SquadPassages(PassageSource):
    """Paragraphs with the questions that people asked about them, and answers that are spans.

    Paragraphs are held out for selection as a whole; `valid` is the test split.

    Args:
        folder: Folder with `train.jsonl` and `valid.jsonl`, or with SQuAD's own files.
    """

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self._folder = folder
        self._passages: dict[Split, tuple[list[Passage], list[int]]] = {}

    def draw(self, rng: np.random.Generator, split: Split) -> Passage:
        """Draw a paragraph, more often the more questions it has, up to MOST_WEIGHT.

        Raises:
            DataError: A file is missing or malformed, or has nothing for the split.
        """
        passages, ends = self._load(split)
        return passages[bisect_right(ends, rng.integers(ends[-1]))]

    def _load(self, split: Split) -> tuple[list[Passage], list[int]]:
        """Return a split's paragraphs, and the sums of their weights up to each of them."""
        if split not in self._passages:
            file = find_squad_file(self._folder, test=split == "test")
            passages = [
                cut_passage(text, asked)
                for text, asked in _read_paragraphs(file).items()
                if split == "test" or is_held_out(text) == (split == "selection")
            ]
            if not passages:
                raise DataError(f"{file} has no paragraph for the {split} split")
            weights = (min(len(passage.questions), MOST_WEIGHT) for passage in passages)
            self._passages[split] = (passages, list(accumulate(weights)))
        return self._passages[split]


def cut_passage(text: str, asked: list[SquadQuestion]) -> Passage:
    """Cut a paragraph into sentences, and find those that answer each question."""
    cuts = [0, *find_cuts(text), len(text)]
    pieces = [text[start:end] for start, end in pairwise(cuts) if start < end]
    starts = cuts[: len(pieces)]
    return Passage(tuple(pieces), tuple(_locate(question, starts) for question in asked))


def _locate(asked: SquadQuestion, starts: list[int]) -> PassageQuestion:
    place = asked.context.index(asked.answers[0])
    end = place + len(asked.answers[0])
    first, last = (bisect_right(starts, at) - 1 for at in (place, max(place, end - 1)))
    return PassageQuestion(asked.question.strip(), tuple(asked.answers), first, last)


def _read_paragraphs(file: Path) -> dict[str, list[SquadQuestion]]:
    paragraphs: dict[str, list[SquadQuestion]] = defaultdict(list)
    for asked in read_squad(file):
        paragraphs[asked.context].append(asked)
    return paragraphs
