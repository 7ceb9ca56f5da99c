"""Lists of records: people's lines of key and value, in the form that models are trained on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gradmem_core.errors import NoRecordError, UnknownCharactersError
from gradmem_core.tokenizer import QUERY_MARK

TAB, COLON_SPACE, SPACED_EQUALS, EQUALS, COLON, COMMA = SEPARATORS = [
    re.compile(pattern) for pattern in (r"\t", r":\s+", r"\s=\s+", r"=", r":", r",\s*")
]
"""Separators of key and value; of two that fit equally many lines, the first one is taken.
No pattern starts with a repetition, which would take quadratic time on a long run of blanks."""
FAMILIES = [[TAB], [COLON_SPACE, COLON], [SPACED_EQUALS, EQUALS], [COMMA]]
"Separators by sign, with spaces first: a line that fits with spaces also fits without."
COMMENT = ("#", ";")
"Prefixes of lines that do not count when the separator is determined."
FOREIGN = re.compile(r"[^\t\n\r -~]")
"Characters that neither a document nor a query may have: not printable ASCII, tab or line end."


@dataclass(frozen=True)
class Record:
    """A key and its value."""

    key: str
    "The key as `fold_key` returns it."
    value: str
    "The value, without spaces at its ends or tabs inside."
    number: int = 0
    "Line of the document, from 1; 0 for a record that is not from a document."

    @property
    def line(self) -> str:
        """The line of the record in a context."""
        return f"{self.key}\t{self.value}\n"


@dataclass(frozen=True)
class RecordList:
    """The records of a document."""

    records: list[Record]
    "Records in their order, each key once."
    duplicate_keys: list[str]
    "Keys that occur more than once, spelled as the last time; the last value is kept."
    skipped_lines: list[int]
    "Numbers of the lines, from 1, that are neither a record nor empty."


def fold_key(key: str) -> str:
    """Normalize a key: lower case, single spaces, no spaces at the ends and no colon after it."""
    return " ".join(key.split()).rstrip(": ").lower()


def format_key_query(key: str) -> str:
    """Format the query for a key.

    Raises:
        UnknownCharactersError: The key has characters that are not printable ASCII.
    """
    check_ascii(key)
    return f"{QUERY_MARK}{fold_key(key)}\t"


def parse_records(document: str) -> RecordList:
    """Parse the records of a document.

    A line is `key: value`, `key = value`, `key, value`, `key<TAB>value` or the same without spaces.
    The separator that fits most lines of the document is tried first on each line.

    Raises:
        UnknownCharactersError: The document has characters other than printable ASCII, tabs and
            line ends.
        NoRecordError: The document has no records.
    """
    check_ascii(document)
    lines = re.split(r"\r\n?|\n", document)
    separators = _rank_separators(lines)
    records: dict[str, Record] = {}
    duplicates: dict[str, str] = {}
    skipped: list[int] = []
    for number, line in enumerate(lines, start=1):
        pairs = (_split_line(line, separator) for separator in separators)
        pair = next(filter(None, pairs), None)
        if pair is None:
            if line.strip():
                skipped.append(number)
            continue
        spelling, value = pair
        key = fold_key(spelling)
        if records.pop(key, None):
            duplicates[key] = spelling
        records[key] = Record(key, value, number)
    if not records:
        raise NoRecordError(
            "the document has no records: write one on each line, as `key: value`, `key = value`,"
            " `key, value` or `key<TAB>value`"
        )
    return RecordList(list(records.values()), list(duplicates.values()), skipped)


def check_ascii(text: str) -> None:
    """Refuse characters that a list of records may not have.

    Raises:
        UnknownCharactersError: The text has characters other than printable ASCII, tabs and line
            ends; the error names the first ones and their positions.
    """
    positions = [match.start() for match in FOREIGN.finditer(text)]
    if positions:
        raise UnknownCharactersError.at_positions(text, positions, "not printable ASCII")


def _rank_separators(lines: Sequence[str]) -> list[re.Pattern[str]]:
    """Order the separators by the lines that their sign fits, most first.

    A sign is tried with spaces before it is tried without, unless it has spaces in less than half
    of its lines.
    """
    voting = [line for line in lines if not line.lstrip().startswith(COMMENT)]

    fitting = {
        separator: sum(_split_line(line, separator) is not None for line in voting)
        for separator in SEPARATORS
    }
    ranked: list[tuple[int, list[re.Pattern[str]]]] = []
    for family in FAMILIES:
        spaced, bare = fitting[family[0]], fitting[family[-1]]
        ranked.append((bare, family if 2 * spaced >= bare else family[::-1]))
    ranked.sort(key=lambda entry: (-entry[0], SEPARATORS.index(entry[1][0])))
    return [separator for _, family in ranked for separator in family]


def _split_line(line: str, separator: re.Pattern[str]) -> tuple[str, str] | None:
    """Split a line into key and value; None where it is not a record."""
    line = line.strip(" ")
    match = separator.search(line)
    if match is None:
        return None
    key, value = line[: match.start()].strip(), line[match.end() :].replace("\t", " ").strip()
    return (key, value) if fold_key(key) and value else None
