"""What a task is."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradmem_core.checkpoint import Task
from gradmem_core.tokenizer import Tokenizer


@dataclass(frozen=True)
class Question:
    """One query of a context."""

    query: str
    "What is asked."
    target: str
    "What the model learns to say, up to and with the last stop token."
    answer: str
    "What counts as right: the target without its ending."


@dataclass(frozen=True)
class Example:
    """A context with questions about it."""

    context: str
    questions: list[Question]


class TrainingTask(ABC):
    """A source of examples whose difficulty is one number, the size."""

    name: ClassVar[str]

    @abstractmethod
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that covers every text of the task."""

    @abstractmethod
    def sample(self, rng: np.random.Generator, *, size: int, queries: int) -> Example:
        """Draw one example.

        Args:
            rng: Where the randomness comes from.
            size: How much the context holds, at least 1; for `kv` the number of pairs.
            queries: Number of questions.
        """

    @abstractmethod
    def card(self) -> Task:
        """What a checkpoint says about the task it was trained for."""
