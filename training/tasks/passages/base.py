"""The interface of sources: passages are texts in pieces, with questions about them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from training.seeds import Split


@dataclass(frozen=True)
class PassageQuestion:
    """A question about a passage."""

    query: str
    answers: tuple[str, ...]
    """Right answers, first the answer to learn; empty where the passage only seems to answer (where
    a name or a number is off by a little)."""
    first: int = 0
    "Index of the first piece that has to be read to answer it."
    last: int = 0
    "Index of the last such piece."


@dataclass(frozen=True)
class Passage:
    """A text in pieces, which are cut no further."""

    pieces: tuple[str, ...]
    "Sentences or lines with the blanks that follow them: one after the other they are the text."
    questions: tuple[PassageQuestion, ...]
    "In any order; at least one of them has an answer."
    lead: int = 0
    "Number of pieces at the beginning that every window keeps: a title, the header of a table."

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.pieces).strip()


class PassageSource(ABC):
    """A source of passages of one kind."""

    name: str
    "Its name in recipes."

    @abstractmethod
    def draw(self, rng: np.random.Generator, split: Split) -> Passage:
        """Draw a passage.

        Args:
            rng: The source of all randomness.
            split: The part of its files that a source draws from; generated passages depend on
                `rng` alone, whose streams differ between splits.
        """
