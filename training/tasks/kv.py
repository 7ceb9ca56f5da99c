"""Associative retrieval: which value belongs to a key.

The published benchmark of GradMem (arXiv 2603.13875): context `!k1:v1!!k2:v2!...|`, query `?!k:`,
target `v!|`, keys and values of two symbols out of 62.
"""

import string

import numpy as np

from gradmem_core.checkpoints.manifest import Task
from gradmem_core.errors import InputError
from gradmem_core.tokenizer import Tokenizer
from training.seeds import Split
from training.tasks.base import Example, Question, TrainingTask

SYMBOLS = string.ascii_letters + string.digits
MARKS = "!?:|"
WORDS = len(SYMBOLS) ** 2
"Number of different keys."


class KeyValueTask(TrainingTask):
    """Pairs of two-symbol keys and values; the size is the number of pairs."""

    name = "kv"

    def tokenizer(self) -> Tokenizer:
        """Build a tokenizer with a token for each of the 62 symbols and the 4 marks."""
        return Tokenizer.from_characters(SYMBOLS + MARKS)

    def sample(
        self,
        rng: np.random.Generator,
        *,
        size: int,
        queries: int,
        split: Split = "train",  # noqa: ARG002 (generated)
    ) -> Example:
        """Draw `size` pairs with different keys and ask for them in random order.

        With more queries than pairs, every pair is asked for about equally often.

        Raises:
            InputError: There are not that many different keys.
        """
        if not 1 <= size <= WORDS:
            raise InputError(f"{size} pairs: must be from 1 to {WORDS}", limit=WORDS)
        keys = [_word(i) for i in rng.choice(WORDS, size=size, replace=False)]
        values = [_word(i) for i in rng.integers(WORDS, size=size)]
        context = "".join(f"!{key}:{value}!" for key, value in zip(keys, values, strict=True)) + "|"
        order = rng.permutation(size)
        asked = [int(order[i % size]) for i in range(queries)]
        return Example(
            context,
            [Question(f"?!{keys[i]}:", f"{values[i]}!|", values[i]) for i in asked],
        )

    def card(self) -> Task:
        """Describe the task; the first mark after the value ends an answer."""
        return Task(
            name=self.name,
            stop_tokens=["!", "|"],
            example_document="!aB:7x!!kk:Q3!!0z:mN!|",
            example_query="?!kk:",
            example_answer="Q3",
        )


def _word(number: int) -> str:
    first, second = divmod(int(number), len(SYMBOLS))
    return SYMBOLS[first] + SYMBOLS[second]
