"""Lists of records: which value belongs to a key, or that the key is not there.

A document is lines of a key, a tab and a value; a query is a key; keys are in lower case (see
`gradmem_core/records.py`, which brings people's lists into this form). Sizes are characters.
"""

from collections.abc import Callable
from functools import cache

import numpy as np

from gradmem_core.checkpoint import Task
from gradmem_core.records import ABSENT, QUERY_MARK, Record, canonical_query, fold
from gradmem_core.tokenizer import Tokenizer
from training.tasks.base import Example, Question, TrainingTask
from training.tasks.texts import PRINTABLE, Texts

LONGEST_KEY, LONGEST_VALUE = 24, 56
"Characters of the longest key and value that are generated."
LEAST_SIZE = 4
"Characters of the smallest document: a key, a tab, a value and the end of the line."
MISSES = 100
"Keys that were no new ones, after which a document is full: short keys run out."
SHORT, SHORT_SHARE = 4, 0.2
"Characters of a short text at most, and the share of columns that hold no others."
ABSENT_SHARE = 0.2
"Share of the questions that name a key that is not there."
CASES: list[Callable[[str], str]] = [str, str, str.lower, str.upper, str.title]
"What may be done to a column's letters; mostly nothing."


class RecordsTask(TrainingTask):
    """Records of varied kinds; the size is the most characters of the document."""

    name = "records"

    def tokenizer(self) -> Tokenizer:
        """One token for each printable ASCII character and for each mark."""
        return Tokenizer.of_characters(PRINTABLE + "\t\n" + QUERY_MARK + ABSENT)

    def sample(self, rng: np.random.Generator, *, size: int, queries: int) -> Example:
        """Draw a document of at most `size` characters and questions about it.

        The longest key and value are drawn first, then records until the document is full. A
        smaller `size` than that of the smallest document counts as that.
        """
        size = max(size, LEAST_SIZE)
        room = size - 2  # of one record, without its tab and line end
        longest_key = _longest(rng, min(LONGEST_KEY, room - 1))
        longest_value = _longest(rng, min(LONGEST_VALUE, room - longest_key))
        records = draw_records(
            rng, longest_key=longest_key, longest_value=longest_value, characters=size
        )
        return example(rng, records, queries=queries, absent_share=ABSENT_SHARE)

    def card(self) -> Task:
        """The end of the line ends an answer."""
        return Task(
            name=self.name,
            stop_tokens=["\n"],
            document_format="records",
            example_document="Alice: +49 30 5550123\nBob: bob@example.org\nDoor code: 4711#\n",
            example_query="door code",
            example_answer="4711#",
        )


def draw_records(
    rng: np.random.Generator,
    *,
    longest_key: int,
    longest_value: int,
    characters: int | None = None,
    count: int | None = None,
) -> list[Record]:
    """Draw records with different keys.

    Args:
        rng: Where the randomness comes from.
        longest_key: Most characters of a key.
        longest_value: Most characters of a value.
        characters: Stop before the document has more characters than this.
        count: Stop at this many records.
    """
    keys = _Column(rng, longest_key, prefixes=0.2)
    values = _Column(rng, longest_value, prefixes=0.05)
    records: dict[str, str] = {}
    left = characters
    misses = 0
    while count is None or len(records) < count:
        key, value = fold(keys.draw()), values.draw()
        if not key or key in records:
            misses += 1
            if misses > MISSES:
                break
            continue
        if left is not None:
            left -= len(key) + len(value) + 2
            if left < 0:
                break
        records[key] = value
    return [Record(key, value) for key, value in records.items()]


def example(
    rng: np.random.Generator, records: list[Record], *, queries: int, absent_share: float
) -> Example:
    """Questions about every record in turn, in random order, some of them about absent keys."""
    order = rng.permutation(len(records))
    known = {record.key for record in records}
    questions = []
    for number in range(queries):
        record = records[order[number % len(records)]]
        key, answer = record.key, record.value
        if rng.random() < absent_share:
            key, answer = draw_absent_key(rng, record.key, known), ABSENT
        questions.append(Question(canonical_query(key), f"{answer}\n", answer))
    return Example("".join(record.line for record in records), questions)


class _Column:
    """Texts of one column of a document: mostly of one kind, some alike.

    Args:
        rng: Where the randomness comes from.
        longest: Most characters of a text.
        prefixes: Share of columns whose texts all begin alike.
    """

    def __init__(self, rng: np.random.Generator, longest: int, *, prefixes: float) -> None:
        self.rng, self.longest = rng, longest
        texts = _texts()
        self.mixed = rng.random() < 0.3
        self.kind = texts.kinds[rng.integers(len(texts.kinds))]
        self.case: Callable[[str], str] = CASES[rng.integers(len(CASES))]
        self.repeats = rng.random() * 0.4 if rng.random() < 0.25 else 0.0
        self.prefix = ""
        if longest >= 6 and rng.random() < prefixes:
            joint = " _-./:"[rng.integers(6)]
            texts.seed(int(rng.integers(2**31)))
            self.prefix = (texts.draw("word")[: longest // 2] + joint).lstrip()
        self.before: list[str] = []

    def draw(self) -> str:
        rng, texts = self.rng, _texts()
        if self.before and rng.random() < self.repeats:
            return self.before[rng.integers(len(self.before))]
        longest = self.longest - len(self.prefix)
        if rng.random() < 0.3:
            longest = 1 + int(rng.integers(longest))
        texts.seed(int(rng.integers(2**31)))
        text = ""
        for _ in range(4):
            kind = texts.kinds[rng.integers(len(texts.kinds))] if self.mixed else self.kind
            text = texts.draw(kind)
            if 0 < len(text) <= longest:
                break
        text = (self.prefix + self.case(text)[:longest]).strip() or "-"
        self.before.append(text)
        return text


def draw_absent_key(rng: np.random.Generator, near: str, known: set[str]) -> str:
    """A key that is not known: another text, or one that differs from `near` in a character."""
    while True:
        if rng.random() < 0.5:
            texts = _texts()
            texts.seed(int(rng.integers(2**31)))
            key = texts.draw(texts.kinds[rng.integers(len(texts.kinds))])[: max(len(near), 4)]
        else:
            place = int(rng.integers(len(near)))
            other = PRINTABLE[rng.integers(len(PRINTABLE))]
            key = [
                near[:place] + other + near[place + 1 :],
                near[:place] + near[place + 1 :],
                near[:place] + other + near[place:],
                near + other,
            ][rng.integers(4)]
        key = fold(key)
        if key and key not in known:
            return key


def _longest(rng: np.random.Generator, most: int) -> int:
    """The longest text of a column, from 1 to `most`.

    A fifth are short, as flags and codes are; the others are spread evenly.
    """
    if most <= SHORT or rng.random() < SHORT_SHARE:
        return int(rng.integers(1, min(SHORT, most) + 1))
    return int(rng.integers(SHORT, most + 1))


@cache
def _texts() -> Texts:
    return Texts()
