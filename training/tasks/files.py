"""Bases of tasks that read files, and of tasks for pretrained models."""

import hashlib
from abc import abstractmethod
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gradmem_core.errors import DataError, RecipeError
from gradmem_core.tokenizer import Tokenizer
from training.seeds import Split, stream
from training.tasks.base import Example, TrainingTask

HELD_OUT = 20
"Of so many groups (stories, articles) of the training file, one is held out for selection."


@dataclass(frozen=True)
class Item:
    """An example with its size."""

    size: int
    example: Example
    "With all questions about its context."


class FileTask(TrainingTask):
    """A task that draws from a fixed set of examples. Answers are compared as SQuAD does."""

    normalised = True

    def __init__(self) -> None:
        self._items: dict[Split, list[list[Item]]] = {}

    @abstractmethod
    def groups(self, split: Split) -> list[list[Item]]:
        """Read the examples of a split, in groups that are drawn equally often.

        Raises:
            DataError: A file is missing or malformed.
        """

    def sample(
        self, rng: np.random.Generator, *, size: int, queries: int, split: Split = "train"
    ) -> Example:
        """Draw an example of at most `size`, from each group equally often.

        Raises:
            DataError: There is none.
        """
        groups = self._up_to(split, size)
        group = groups[rng.integers(len(groups))]
        return _draw_questions(rng, group[rng.integers(len(group))].example, queries)

    def examples(
        self, *, split: Split, seed: int, size: int, count: int, queries: int
    ) -> list[Example]:
        """Draw different examples of at most `size` in random order, as many as there are."""
        items = [item for group in self._up_to(split, size) for item in group]
        rng = stream(split, seed, size)
        return [
            _draw_questions(rng, items[index].example, queries)
            for index in rng.permutation(len(items))[:count]
        ]

    def _up_to(self, split: Split, size: int) -> list[list[Item]]:
        """Return the groups without items above `size`, and without empty groups.

        A smaller `size` than that of the smallest item counts as that.
        """
        if split not in self._items:
            self._items[split] = [
                sorted(group, key=lambda item: item.size) for group in self.groups(split) if group
            ]
        groups = self._items[split]
        if not groups:
            raise DataError(f"{self.name} has no example in its {split} split")
        size = max(size, min(group[0].size for group in groups))
        fitting = (
            group[: bisect_right(group, size, key=lambda item: item.size)] for group in groups
        )
        return [group for group in fitting if group]


class PretrainedTask(TrainingTask):
    """A task for pretrained models, whose tokenizer it takes; answers compare as in SQuAD."""

    normalised = True

    def tokenizer(self) -> Tokenizer:
        """Refuse: the tokenizer comes with the pretrained model.

        Raises:
            RecipeError: Always.
        """
        raise RecipeError(
            f"task: {self.name} has no vocabulary of its own; leave out backbone and memory, and"
            " start from a checkpoint that `gradmem-train init` made of a pretrained model"
        )


def read_text(path: Path) -> str:
    """Read a UTF-8 file.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def is_held_out(group: str) -> bool:
    """Return True where a story or an article of the training file is held out for selection."""
    return hashlib.sha256(group.encode()).digest()[0] % HELD_OUT == 0


def _draw_questions(rng: np.random.Generator, example: Example, queries: int) -> Example:
    """Draw a number of an example's questions; they repeat where it has fewer."""
    known = example.questions
    order = rng.permutation(len(known))
    return Example(example.context, [known[order[i % len(known)]] for i in range(queries)])
