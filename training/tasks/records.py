"""Lists of records: the value of a key, or the answer that the key is not there.

A document is lines of a key, a tab and a value; a query is a key; keys are in lower case (see
`gradmem_core/texts/records.py`, which brings people's lists into this form). Sizes are characters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count

import numpy as np

from gradmem_core.checkpoints.manifest import Task
from gradmem_core.texts.records import Record, fold_key, format_key_query
from gradmem_core.tokenizer import ABSENT, QUERY_MARK, Tokenizer
from training.seeds import Split
from training.tasks.base import Example, Question, TrainingTask
from training.tasks.ingredients import PRINTABLE, Ingredients

LONGEST_KEY, LONGEST_VALUE = 24, 56
"Characters of the longest key and value that are generated."
LEAST_SIZE = 4
"Characters of the smallest document: a key, a tab, a value and the end of the line."
MISSES = 100
"Repeated keys after which a document counts as full: short keys run out."
SHORT, SHORT_SHARE = 4, 0.2
"Most characters of a short text, and the share of columns that hold only short texts."
ABSENT_SHARE = 0.5
"Share of the questions with an absent key: of several pages, most do not hold a key."
ALIKE_SHARE, CHANGED_SHARE = 0.6, 0.25
"Shares of absent keys that are drawn like the keys there, and that differ by a character."
CASES: list[Callable[[str], str]] = [str, str, str.lower, str.upper, str.title]
"Changes to the letters of a column; mostly none."


class RecordsTask(TrainingTask):
    """Records of varied kinds; the size is the most characters of the document."""

    name = "records"
    fails = "keys and values that look alike take each other's place, absent keys among them"

    def tokenizer(self) -> Tokenizer:
        """Build a tokenizer with a token for each printable ASCII character and each mark."""
        return Tokenizer.from_characters(PRINTABLE + "\t\n" + QUERY_MARK + ABSENT)

    def sample(
        self,
        rng: np.random.Generator,
        *,
        size: int,
        queries: int,
        split: Split = "train",  # noqa: ARG002 (generated)
    ) -> Example:
        """Draw a document of at most `size` characters and questions about it.

        The longest key and value are drawn first, then records until the document is full. A
        `size` below that of the smallest document counts as that.
        """
        size = max(size, LEAST_SIZE)
        room = size - 2  # of one record, without its tab and line end
        longest_key = _draw_longest(rng, min(LONGEST_KEY, room - 1))
        longest_value = _draw_longest(rng, min(LONGEST_VALUE, room - longest_key))
        records = draw_records(
            rng, longest_key=longest_key, longest_value=longest_value, characters=size
        )
        return _draw_example(rng, records, queries=queries)

    def card(self) -> Task:
        """Describe the task; the end of the line ends an answer."""
        return Task(
            name=self.name,
            stop_tokens=["\n"],
            document_format="records",
            example_document="Alice: +49 30 5550123\nBob: bob@example.org\nDoor code: 4711#\n",
            example_query="door code",
            example_answer="4711#",
        )


@dataclass(frozen=True)
class DrawnRecords:
    """Generated records."""

    records: list[Record]
    "At least one, with different keys."
    keys: "_Column"
    "The column of their keys, from which more keys like them can be drawn."

    @property
    def document(self) -> str:
        """The records as they are written."""
        return "".join(record.line for record in self.records)


def draw_records(
    rng: np.random.Generator,
    *,
    longest_key: int,
    longest_value: int,
    characters: int | None = None,
    most: int | None = None,
) -> DrawnRecords:
    """Draw records with different keys.

    Args:
        rng: The source of all randomness.
        longest_key: Most characters of a key.
        longest_value: Most characters of a value.
        characters: Stop before the document has more characters than this.
        most: Stop at this many records.
    """
    keys = _Column(rng, longest_key, prefixes=0.2)
    values = _Column(rng, longest_value, prefixes=0.05)
    records: dict[str, str] = {}
    left = characters
    misses = 0
    while most is None or len(records) < most:
        key, value = fold_key(keys.draw()), values.draw()
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
    return DrawnRecords([Record(key, value) for key, value in records.items()], keys)


def _draw_example(rng: np.random.Generator, drawn: DrawnRecords, *, queries: int) -> Example:
    """Ask for every record in turn, in random order, or for an absent key in its place."""
    order = rng.permutation(len(drawn.records))
    questions = []
    for number in range(queries):
        record = drawn.records[order[number % len(order)]]
        key, answer = record.key, record.value
        if rng.random() < ABSENT_SHARE:
            key, answer = draw_absent_key(rng, key, drawn.records, alike=drawn.keys), ABSENT
        questions.append(Question(format_key_query(key), f"{answer}\n", answer))
    return Example(drawn.document, questions)


class _Column:
    """Texts of a column of a document, mostly of one kind.

    Args:
        rng: The source of all randomness.
        longest: Most characters of a text.
        prefixes: Share of columns whose texts all begin with the same prefix.
    """

    def __init__(self, rng: np.random.Generator, longest: int, *, prefixes: float) -> None:
        self.rng, self.longest = rng, longest
        texts = _shared_ingredients()
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
        """Draw a text; now and then one that was drawn before."""
        rng, texts = self.rng, _shared_ingredients()
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


def draw_absent_key(
    rng: np.random.Generator,
    near: str,
    records: Sequence[Record],
    *,
    alike: _Column | None = None,
) -> str:
    """Draw a key that no record has.

    Args:
        rng: The source of all randomness.
        near: A key of a record, from which the absent key may differ in a character.
        records: The records.
        alike: The column of the records' keys, from which the absent key may be drawn; without it,
            texts of any kind take its place.
    """
    known = {record.key for record in records}
    for attempt in count():
        chance = rng.random()
        if chance < CHANGED_SHARE:
            key = _change_key(rng, near)
        elif chance < CHANGED_SHARE + ALIKE_SHARE and alike is not None and attempt < MISSES:
            key = alike.draw()
        else:
            key = _draw_text(rng)[: max(len(near), SHORT)]
        key = fold_key(key)
        if key and key not in known:
            return key
    raise AssertionError("there is always another text")


def _change_key(rng: np.random.Generator, key: str) -> str:
    """Replace, leave out or insert a character."""
    place = int(rng.integers(len(key) + 1))
    other = PRINTABLE[rng.integers(len(PRINTABLE))]
    left_out = [0, 1, 1][rng.integers(3)]
    put_in = other if not left_out or rng.random() < 0.5 else ""
    return key[:place] + put_in + key[place + left_out :]


def _draw_text(rng: np.random.Generator) -> str:
    texts = _shared_ingredients()
    texts.seed(int(rng.integers(2**31)))
    return texts.draw(texts.kinds[rng.integers(len(texts.kinds))])


def _draw_longest(rng: np.random.Generator, most: int) -> int:
    """Draw the length of a column's longest text, from 1 to `most`.

    A fifth are short, as flags and codes are; the others are spread evenly.
    """
    if most <= SHORT or rng.random() < SHORT_SHARE:
        return int(rng.integers(1, min(SHORT, most) + 1))
    return int(rng.integers(SHORT, most + 1))


@cache
def _shared_ingredients() -> Ingredients:
    return Ingredients()
