"""Spellings of names and values in formats."""

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

BARE = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?|true|false")
"Numbers and truth values, which JSON, TOML and code write without quotes."
YAML_PLAIN = re.compile(r"[^\W\d_][\w .@/+-]*[\w]|[^\W\d_]", re.ASCII)
YAML_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9 ._-]*")
"Names that become identifiers by changes of their joints alone."

Spelling = Callable[[str], str]


def snake_case(text: str) -> str:
    """Write `Unit price` as `unit_price`."""
    return "_".join(_split(text)).lower()


def upper_snake_case(text: str) -> str:
    """Write `Unit price` as `UNIT_PRICE`."""
    return snake_case(text).upper()


def kebab_case(text: str) -> str:
    """Write `Unit price` as `unit-price`."""
    return "-".join(_split(text)).lower()


def camel_case(text: str) -> str:
    """Write `Unit price` as `unitPrice`."""
    first, *others = _split(text.lower())
    return first + "".join(part.capitalize() for part in others)


def pascal_case(text: str) -> str:
    """Write `Unit price` as `UnitPrice`."""
    return "".join(part.capitalize() for part in _split(text.lower()))


def capitalise(text: str) -> str:
    """Write `unit price` as `Unit price`."""
    return text[:1].upper() + text[1:]


def verbatim(text: str) -> str:
    """Leave a text unchanged."""
    return text


def quote(text: str) -> str:
    """Write a string of JSON, which Python, JavaScript, Go and TOML read too."""
    return json.dumps(text, ensure_ascii=False)


def json_value(text: str) -> str:
    """Write a value of JSON: numbers and truth values bare, strings in quotes."""
    return text if BARE.fullmatch(text) else quote(text)


def yaml_value(text: str) -> str:
    """Write a value of YAML, in quotes where it would be read as something else."""
    if YAML_PLAIN.fullmatch(text) and text.lower() not in YAML_WORDS:
        return text
    return json_value(text)


def sql_value(text: str) -> str:
    """Write a value of SQL."""
    return text if BARE.fullmatch(text) else "'" + text.replace("'", "''") + "'"


def shell_value(text: str) -> str:
    """Write a value of a shell variable, in quotes unless it is a word."""
    return text if text.replace("_", "").isalnum() else quote(text)


def escape_xml(text: str) -> str:
    """Write the text of an XML element."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def csv_row(values: Sequence[str], *, comma: str = ",", quote_all: bool = False) -> str:
    """Write a row of CSV."""
    row = io.StringIO()
    quoting: Literal[0, 1] = csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL
    csv.writer(row, delimiter=comma, quoting=quoting, lineterminator="").writerow(values)
    return row.getvalue()


def csv_value(text: str) -> str:
    """Write a value of CSV, in quotes where it must be."""
    return csv_row([text])


def logfmt_value(text: str) -> str:
    """Write a value of logfmt, in quotes where it has blanks."""
    return quote(text) if " " in text else text


def join_padded(values: Sequence[str], widths: Sequence[int], joint: str) -> str:
    """Write a row of columns of fixed widths."""
    cells = [value.ljust(width) for value, width in zip(values, widths, strict=True)]
    return joint.join(cells).rstrip()


def column_widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """Return the widths of columns that hold all rows."""
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


SPELLINGS: dict[str, Spelling] = {"lower": str.lower, "upper": str.upper, "title": str.title} | {
    spell.__name__: spell
    for spell in (
        snake_case, upper_snake_case, kebab_case, camel_case, pascal_case, capitalise, verbatim,
        quote, json_value, yaml_value, sql_value, shell_value, csv_value, logfmt_value, escape_xml,
    )
}  # fmt: skip
"Spellings by name."
GROUPS: dict[str, tuple[str, ...]] = {
    "heads": ("verbatim", "capitalise", "upper", "title", "lower"),
    "keys": ("snake_case", "snake_case", "camel_case", "kebab_case", "lower"),
}
"Spellings of the heads of columns, as people write them, and of keys, as programs do."


def find_group(names: str | Sequence[str]) -> list[Spelling]:
    """Return the spellings of a group, or of a list of names."""
    return [SPELLINGS[name] for name in (GROUPS[names] if isinstance(names, str) else names)]


def fill(template: str, texts: Mapping[str, str]) -> str:
    """Fill in names in braces, one after the other; other braces stay."""
    for name, text in texts.items():
        template = template.replace(f"{{{name}}}", text)
    return template


def _split(text: str) -> list[str]:
    return re.findall(r"[A-Za-z0-9]+", text)
