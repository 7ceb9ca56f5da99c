"""Documents of the bundled checkpoints' kind, drawn from a seed.

A document is `!k1:v1!!k2:v2!...|`, a query `?!k:`; keys and values are two symbols out of 62.
"""

import string
from dataclasses import dataclass

import numpy as np

SYMBOLS = string.ascii_letters + string.digits
WORDS = len(SYMBOLS) ** 2
"How many different keys there are."


@dataclass(frozen=True)
class Document:
    """A text with a query for every pair in it."""

    text: str
    queries: list[str]


def documents(count: int, *, pairs: int, seed: int) -> list[Document]:
    """Draw documents.

    Args:
        count: How many.
        pairs: Pairs of each, from 1 to `WORDS`.
        seed: The same seed and pairs give the same documents.
    """
    draws = np.random.default_rng([seed, pairs])
    return [_document(draws, pairs) for _ in range(count)]


def _document(draws: np.random.Generator, pairs: int) -> Document:
    keys = [_word(number) for number in draws.choice(WORDS, size=pairs, replace=False)]
    values = [_word(number) for number in draws.integers(WORDS, size=pairs)]
    text = "".join(f"!{key}:{value}!" for key, value in zip(keys, values, strict=True)) + "|"
    return Document(text, [f"?!{key}:" for key in keys])


def _word(number: int) -> str:
    first, second = divmod(int(number), len(SYMBOLS))
    return SYMBOLS[first] + SYMBOLS[second]
