"""Lists of records: people's lines of key and value, in the one form that a model is trained on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gradmem_core.errors import NoRecordError, UnknownCharactersError
from gradmem_core.tokenizer import QUERY_MARK

TAB, COLON_SPACE, SPACED_EQUALS, EQUALS, COLON, COMMA = SEPARATORS = [
    re.compile(pattern) for pattern in (r"\t", r":\s+", r"\s=\s+", r"=", r":", r",\s*")
]
"""What may stand between key and value; where two fit equally many lines, the first one is taken.
None begins with a repetition: on a long run of blanks that would take quadratic time."""
FAMILIES = [[TAB], [COLON_SPACE, COLON], [SPACED_EQUALS, EQUALS], [COMMA]]
"The same sign with spaces and without: what fits with spaces fits without."
COMMENT = ("#", ";")
"How lines begin that have no say in what separates the others."
FOREIGN = re.compile(r"[^\t\n\r -~]")
"What neither a document nor a query may hold: all but printable ASCII, tabs and line ends."


@dataclass(frozen=True)
class Record:
    """A key and its value."""

    key: str
    "As `fold_key` leaves it."
    value: str
    "Without spaces at its ends or tabs inside."
    number: int = 0
    "Line of the document, from 1; 0 where there is none."

    @property
    def line(self) -> str:
        """The record as it is written."""
        return f"{self.key}\t{self.value}\n"


@dataclass(frozen=True)
class RecordList:
    """What a document of records holds."""

    records: list[Record]
    "In their order, each key once."
    duplicate_keys: list[str]
    "Keys that stood there more than once, as last written; that value was kept."
    skipped_lines: list[int]
    "Numbers of the lines, from 1, that are no record and not empty."


def fold_key(key: str) -> str:
    """A key without what a query is forgiven: case, outer spaces, runs of them, a colon behind."""
    return " ".join(key.split()).rstrip(": ").lower()


def format_key_query(key: str) -> str:
    """The query for a key.

    Raises:
        UnknownCharactersError: The key holds something else than printable ASCII.
    """
    check_ascii(key)
    return f"{QUERY_MARK}{fold_key(key)}\t"


def parse_records(document: str) -> RecordList:
    """Find the records of a document.

    A line is `key: value`, `key = value`, `key, value`, `key<TAB>value` or the same without spaces;
    what separates most of the document's lines is taken for all that it can separate.

    Raises:
        UnknownCharactersError: The document holds something else than printable ASCII, tabs and
            line ends.
        NoRecordError: There is no record in it.
    """
    check_ascii(document)
    lines = re.split(r"\r\n?|\n", document)
    order = _separators_of(lines)
    records: dict[str, Record] = {}
    duplicates: dict[str, str] = {}
    skipped: list[int] = []
    for number, line in enumerate(lines, start=1):
        found = next(filter(None, (_split(line, separator) for separator in order)), None)
        if found is None:
            if line.strip():
                skipped.append(number)
            continue
        written, value = found
        key = fold_key(written)
        if records.pop(key, None):
            duplicates[key] = written
        records[key] = Record(key, value, number)
    if not records:
        raise NoRecordError(
            "the document has no record: write one to a line, as `key: value`, `key = value`,"
            " `key, value` or `key<TAB>value`"
        )
    return RecordList(list(records.values()), list(duplicates.values()), skipped)


def check_ascii(text: str) -> None:
    """Refuse what no list of records may hold.

    Raises:
        UnknownCharactersError: There is something else than printable ASCII, tabs and line ends;
            the error names the first ones and where they stand.
    """
    places = [match.start() for match in FOREIGN.finditer(text)]
    if places:
        raise UnknownCharactersError.at_places(text, places, "not printable ASCII")


def _separators_of(lines: Sequence[str]) -> list[re.Pattern[str]]:
    """All separators: first the sign that separates the most lines, each with spaces first.

    Where a sign has spaces in less than half of its lines, it is taken without them first.
    """
    voting = [line for line in lines if not line.lstrip().startswith(COMMENT)]

    fitting = {
        separator: sum(_split(line, separator) is not None for line in voting)
        for separator in SEPARATORS
    }
    ranked: list[tuple[int, list[re.Pattern[str]]]] = []
    for family in FAMILIES:
        spaced, bare = fitting[family[0]], fitting[family[-1]]
        ranked.append((bare, family if 2 * spaced >= bare else family[::-1]))
    ranked.sort(key=lambda one: (-one[0], SEPARATORS.index(one[1][0])))
    return [separator for _, family in ranked for separator in family]


def _split(line: str, separator: re.Pattern[str]) -> tuple[str, str] | None:
    """Key as written and value of a line; None where it is no record."""
    line = line.strip(" ")
    match = separator.search(line)
    if match is None:
        return None
    key, value = line[: match.start()].strip(), line[match.end() :].replace("\t", " ").strip()
    return (key, value) if fold_key(key) and value else None
