"""What a task is."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradmem_core.checkpoints.manifest import Task
from gradmem_core.tokenizer import QUERY, Tokenizer
from training.seeds import Split, stream


@dataclass(frozen=True)
class Question:
    """One query of a context."""

    query: str
    "What is asked."
    target: str
    "What the model learns to say, up to and with the last stop token."
    answer: str
    "What counts as right: the target without its ending."
    also_right: tuple[str, ...] = ()
    "Other answers that count."
    templated: bool = True
    "Put the query into the checkpoint's template; otherwise it is the whole prompt."


@dataclass(frozen=True)
class Example:
    """A context with questions about it."""

    context: str
    questions: list[Question]


@dataclass(frozen=True)
class TextFormat:
    """How a checkpoint puts texts into tokens."""

    tokenizer: Tokenizer
    card: Task

    def encode_query(self, question: Question) -> list[int]:
        """The tokens of a query, in its template where it takes one."""
        template = self.card.query_template if question.templated else QUERY
        return self.tokenizer.encode_query(question.query, template)

    @property
    def stop_ids(self) -> list[int]:
        """The tokens that end an answer."""
        return self.tokenizer.require_ids(self.card.stop_tokens)


class TrainingTask(ABC):
    """A source of examples whose difficulty is one number, the size."""

    name: str
    "What recipes and results call it."
    normalised: ClassVar[bool] = False
    "Answers are compared as SQuAD does: without case, punctuation and articles."
    fails: ClassVar[str] = "what the document does not say gets an answer all the same"
    "What a model that is trained on it cannot do, for its card."

    @abstractmethod
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that covers every text of the task."""

    @abstractmethod
    def sample(
        self, rng: np.random.Generator, *, size: int, queries: int, split: Split = "train"
    ) -> Example:
        """Draw one example.

        Args:
            rng: Where the randomness comes from.
            size: How much the context holds, at least 1; for `kv` the number of pairs.
            queries: Number of questions.
            split: Where a task with files draws from; what is generated depends on `rng` alone.
        """

    def examples(
        self, *, split: Split, seed: int, size: int, count: int, queries: int
    ) -> list[Example]:
        """Examples to measure with; a task with files may have fewer than `count`.

        Args:
            split: `selection` while choosing, `test` for final figures.
            seed: Seed of the draws.
            size: Size of the contexts.
            count: Number of examples.
            queries: Questions of each.
        """
        return [
            self.sample(stream(split, seed, size, index), size=size, queries=queries, split=split)
            for index in range(count)
        ]

    def parts(self) -> dict[str, "TrainingTask"]:
        """Return what a run's evaluations measure apart, by name."""
        return {self.name: self}

    def format(self) -> TextFormat:
        """The tokenizer and the card of a fresh model."""
        return TextFormat(self.tokenizer(), self.card())

    @abstractmethod
    def card(self) -> Task:
        """What a checkpoint says about the task it was trained for."""
