"""Spellings of names and values in formats."""

import csv
import io
import json
import re
from collections.abc import Callable, Sequence

BARE = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?|true|false")
"Numbers and truths, which JSON, TOML and code write without quotes."
YAML_PLAIN = re.compile(r"[^\W\d_][\w .@/+-]*[\w]|[^\W\d_]", re.ASCII)
YAML_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9 ._-]*")
"Names that become identifiers by changes of their joints alone."

Spelling = Callable[[str], str]


def _parts(text: str) -> list[str]:
    return re.findall(r"[A-Za-z0-9]+", text)


def snake(text: str) -> str:
    """Write `Unit price` as `unit_price`."""
    return "_".join(_parts(text)).lower()


def upper_snake(text: str) -> str:
    """Write `Unit price` as `UNIT_PRICE`."""
    return snake(text).upper()


def kebab(text: str) -> str:
    """Write `Unit price` as `unit-price`."""
    return "-".join(_parts(text)).lower()


def camel(text: str) -> str:
    """Write `Unit price` as `unitPrice`."""
    first, *others = _parts(text.lower())
    return first + "".join(part.capitalize() for part in others)


def pascal(text: str) -> str:
    """Write `Unit price` as `UnitPrice`."""
    return "".join(part.capitalize() for part in _parts(text.lower()))


def capital(text: str) -> str:
    """Write `unit price` as `Unit price`."""
    return text[:1].upper() + text[1:]


def as_it_is(text: str) -> str:
    """Leave a text as it is."""
    return text


HEADS: tuple[Spelling, ...] = (as_it_is, capital, str.upper, str.title, str.lower)
"Spellings of the head of a column, as people write it."
KEYS: tuple[Spelling, ...] = (snake, snake, camel, kebab, str.lower)
"Spellings of keys, as programs write them."


def quoted(text: str) -> str:
    """Write a string of JSON, which Python, JavaScript, Go and TOML read too."""
    return json.dumps(text, ensure_ascii=False)


def literal(text: str) -> str:
    """Write a value of JSON: a number or a truth as it is, a string in quotes."""
    return text if BARE.fullmatch(text) else quoted(text)


def yaml_value(text: str) -> str:
    """Write a value of YAML, in quotes where it would be read as something else."""
    if YAML_PLAIN.fullmatch(text) and text.lower() not in YAML_WORDS:
        return text
    return literal(text)


def sql_value(text: str) -> str:
    """Write a value of SQL."""
    return text if BARE.fullmatch(text) else "'" + text.replace("'", "''") + "'"


def xml_text(text: str) -> str:
    """Write the text of an XML element."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def csv_line(values: Sequence[str], *, comma: str = ",", all_quoted: bool = False) -> str:
    """Write a row of CSV."""
    written = io.StringIO()
    writer = csv.writer(
        written,
        delimiter=comma,
        quoting=csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL,
        lineterminator="",
    )
    writer.writerow(values)
    return written.getvalue()


def padded(values: Sequence[str], widths: Sequence[int], joint: str) -> str:
    """Write a row of columns of fixed widths."""
    cells = [value.ljust(width) for value, width in zip(values, widths, strict=True)]
    return joint.join(cells).rstrip()


def widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """Return the widths of columns that hold all rows."""
    return [max(map(len, column)) for column in zip(*rows, strict=True)]
