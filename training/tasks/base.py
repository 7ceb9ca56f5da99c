"""The interface of tasks: examples are contexts with questions, drawn by size."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradmem_core.checkpoints.manifest import Task
from gradmem_core.tokenizer import QUERY, Tokenizer
from training.seeds import Split, stream


@dataclass(frozen=True)
class Question:
    """A question about a context."""

    query: str
    target: str
    "The text that the model learns to generate, with the stop token at its end."
    answer: str
    "The right answer: the target without blanks and stop token at its ends."
    also_right: tuple[str, ...] = ()
    "Other right answers."
    templated: bool = True
    "Put the query into the checkpoint's template; otherwise it is the whole prompt."


@dataclass(frozen=True)
class Example:
    """A context with questions about it."""

    context: str
    questions: list[Question]


@dataclass(frozen=True)
class TextFormat:
    """The tokenizer of a checkpoint, with the texts that it puts around queries and answers."""

    tokenizer: Tokenizer
    card: Task

    def encode_query(self, question: Question) -> list[int]:
        """Encode a query, in the checkpoint's template where it takes one."""
        template = self.card.query_template if question.templated else QUERY
        return self.tokenizer.encode_query(question.query, template)

    @property
    def stop_ids(self) -> list[int]:
        """The tokens that end an answer."""
        return self.tokenizer.require_ids(self.card.stop_tokens)


class TrainingTask(ABC):
    """A source of examples of any size; larger ones are harder."""

    name: str
    "Its name in recipes, checkpoints and results."
    normalised: ClassVar[bool] = False
    "Answers are compared as SQuAD does: without case, punctuation and articles."
    fails: ClassVar[str] = "what the document does not say gets an answer all the same"
    "Known failures of models that are trained on it, for the model card."

    @abstractmethod
    def tokenizer(self) -> Tokenizer:
        """Build a tokenizer that covers every text of the task."""

    @abstractmethod
    def sample(
        self, rng: np.random.Generator, *, size: int, queries: int, split: Split = "train"
    ) -> Example:
        """Draw one example.

        Args:
            rng: The source of all randomness.
            size: Amount of text, at least 1, in the unit of the task; for `kv`, pairs.
            queries: Number of questions.
            split: The part of its files that a task draws from; generated examples depend on
                `rng` alone.
        """

    def examples(
        self, *, split: Split, seed: int, size: int, count: int, queries: int
    ) -> list[Example]:
        """Draw examples to measure with; a task with files may have fewer than `count`.

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
        """Return the tasks that evaluations measure separately, by name."""
        return {self.name: self}

    def format(self) -> TextFormat:
        """Build the text format of a fresh model."""
        return TextFormat(self.tokenizer(), self.card())

    @abstractmethod
    def card(self) -> Task:
        """Describe the task as checkpoints do."""
