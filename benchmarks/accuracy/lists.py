"""Lists of records that are asked for their keys: generated ones, and `benchmarks/lists`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.accuracy.replies import AskedText
from gradmem_core.errors import InputError
from gradmem_core.texts.records import Record, parse_records
from training.seeds import stream
from training.tasks import Question
from training.tasks.records import DrawnRecords, draw_absent_key, draw_records

LISTS = Path(__file__).parents[1] / "lists"
BY_SHAPE, BY_PAGES, REAL = 0, 1, 7
"Places in the test split: of generated lists by shape, by pages, and of keys that real ones lack."


@dataclass(frozen=True)
class Shape:
    """A number of records, and the most characters of their keys and values."""

    records: int
    longest_key: int
    longest_value: int

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """Read `8x10+10`.

        Raises:
            ValueError: It is written otherwise.
        """
        try:
            records, lengths = text.split("x")
            key, value = lengths.split("+")
            return cls(int(records), int(key), int(value))
        except ValueError as error:
            message = f"{text!r} is not a shape: write RECORDSxKEY+VALUE, as 8x10+10"
            raise ValueError(message) from error

    def __str__(self) -> str:
        """As the command line and the tables write it."""
        return f"{self.records}x{self.longest_key}+{self.longest_value}"


SHAPES = (Shape(8, 8, 8), Shape(8, 10, 10), Shape(16, 10, 10), Shape(8, 16, 32))
"Shapes of the usual measurement."
PAGE = Shape(16, 10, 10)
"Records of a page in lists of several."


@dataclass(frozen=True)
class ListGroup:
    """Lists of one kind; each is asked for all its keys, and for as many that it does not have."""

    kind: Literal["shape", "pages", "list"]
    name: str
    "The shape, the number of pages, or the name of the real list."
    lists: Sequence[AskedText]


def list_groups(
    shapes: Sequence[Shape],
    pages: Sequence[int],
    folder: Path = LISTS,
    *,
    contexts: int,
    seed: int,
    page_shape: Shape = PAGE,
) -> Iterator[ListGroup]:
    """Draw lists of every shape and of every number of pages, then read the real ones.

    Args:
        shapes: Shapes of generated lists.
        pages: Generated lists of so many times the records of `page_shape`.
        folder: Folder of the real lists, `*.txt`.
        contexts: Generated lists of each shape; there are fewer of many pages.
        seed: Seed of the test split.
        page_shape: Records of a page.

    Raises:
        InputError: There is no real list, or one cannot be read.
    """
    real = read_lists(folder)
    for number, shape in enumerate(shapes):
        drawn = [_draw(shape, stream("test", seed, BY_SHAPE, number, i)) for i in range(contexts)]
        yield ListGroup("shape", str(shape), drawn)
    for count in pages:
        shape = Shape(count * page_shape.records, page_shape.longest_key, page_shape.longest_value)
        drawn = [
            _draw(shape, stream("test", seed, BY_PAGES, count, i))
            for i in range(max(1, contexts // count))
        ]
        yield ListGroup("pages", str(count), drawn)
    for name, text in real.items():
        asked = _ask(text, parse_records(text).records, stream("test", seed, REAL))
        yield ListGroup("list", name, [asked])


def read_lists(folder: Path = LISTS) -> dict[str, str]:
    """Read the lists of a folder by their files' names.

    Raises:
        InputError: There are none, or one cannot be read.
    """
    try:
        texts = {path.stem: path.read_text() for path in sorted(folder.glob("*.txt"))}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"a list in {folder} cannot be read: {error}") from error
    if not texts:
        raise InputError(f"there is no list (*.txt) in {folder}")
    return texts


def _draw(shape: Shape, rng: np.random.Generator) -> AskedText:
    drawn = draw_records(
        rng,
        longest_key=shape.longest_key,
        longest_value=shape.longest_value,
        most=shape.records,
    )
    return _ask(drawn.document, drawn.records, rng, drawn)


def _ask(
    text: str,
    records: Sequence[Record],
    rng: np.random.Generator,
    drawn: DrawnRecords | None = None,
) -> AskedText:
    """Ask for all keys; most keys that a generated list does not have are drawn as its own are."""
    present = {record.key: record.value for record in records}
    alike = None if drawn is None else drawn.keys
    absent = [draw_absent_key(rng, key, records, alike=alike) for key in present]
    return AskedText(
        text,
        present=tuple(Question(key, f" {value}\n", value) for key, value in present.items()),
        absent=tuple(Question(key, " \n", "") for key in absent),
    )
