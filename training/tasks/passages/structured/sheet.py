"""Records of one kind: what lists and tables hold before they are written in a format."""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from training.tasks.passages.structured.draws import Draws

FIELDS = Path(__file__).with_name("fields.toml")
DOMAINS = Path(__file__).with_name("domains.toml")
MIXED_SHARE = 0.25
"Share of columns whose values are written in several ways."


@dataclass(frozen=True)
class Field:
    """Something that records say."""

    labels: tuple[str, ...]
    "Nouns that it is called, the usual noun first; none where only wordings of its own fit."
    kind: str
    heads: tuple[str, ...] = ()
    "Other words that documents write above it: starts, due, written by."
    sort: str = ""
    "The wordings that fit it beside the general ones."
    ask: tuple[str, ...] = ()
    back: tuple[str, ...] = ()
    "Wordings that ask for the record."

    @property
    def called(self) -> tuple[str, ...]:
        """All that documents write above it."""
        return self.labels + self.heads


@dataclass(frozen=True)
class Domain:
    """A kind of record."""

    what: str
    names: str
    titles: tuple[str, ...]
    fields: tuple[Field, ...]
    who: bool = False
    "True of people and pets."

    @property
    def plural(self) -> str:
        """The word for several."""
        if self.what == "person":
            return "people"
        if re.search(r"[^aeiou]y$", self.what):
            return self.what[:-1] + "ies"
        return self.what + ("es" if self.what.endswith(("s", "ch", "sh", "x")) else "s")


@dataclass(frozen=True)
class Sheet:
    """Records and their fields."""

    domain: Domain
    title: str
    corner: str
    "The head of the column of names."
    names: tuple[str, ...]
    fields: tuple[Field, ...]
    heads: tuple[str, ...]
    "The fields' heads, as the document calls them."
    rows: tuple[tuple[str | None, ...], ...]
    "Values of each record, in the order of the fields; None where it lacks the field."


@cache
def domains() -> dict[str, Domain]:
    """Return all kinds of records by name."""
    fields = {name: _field(entry) for name, entry in tomllib.loads(FIELDS.read_text()).items()}
    listed = tomllib.loads(DOMAINS.read_text())
    return {
        name: Domain(
            what=entry["what"],
            names=entry["names"],
            titles=tuple(entry["titles"]),
            fields=tuple(fields[name] for name in entry["fields"]),
            who=entry.get("who", False),
        )
        for name, entry in listed.items()
    }


def _field(entry: dict[str, str | list[str]]) -> Field:
    texts = {key: value for key, value in entry.items() if isinstance(value, str)}
    lists = {key: tuple(value) for key, value in entry.items() if isinstance(value, list)}
    return Field(
        labels=lists["labels"],
        kind=texts["kind"],
        heads=lists.get("heads", ()),
        sort=texts.get("sort", ""),
        ask=lists.get("ask", ()),
        back=lists.get("back", ()),
    )


def draw_sheet(
    draws: Draws, domain: Domain, *, records: int, columns: int, gaps: float = 0.0
) -> Sheet:
    """Draw records.

    Args:
        draws: Where the randomness comes from.
        domain: What they are.
        records: Most of them; fewer where names run out.
        columns: Most fields of a record.
        gaps: Share of the fields that a record lacks; never the first.
    """
    fields = tuple(draws.shuffled(domain.fields)[:columns])
    names = tuple(draws.different(domain.names, records))
    drawn = [_column(draws, field, len(names)) for field in fields]
    return Sheet(
        domain=domain,
        title=draws.pick(domain.titles),
        corner=draws.pick(("name", domain.what)) if domain.who else domain.what,
        names=names,
        fields=fields,
        heads=tuple(_head(draws, field) for field in fields),
        rows=tuple(
            tuple(
                None if place and draws.chance(gaps) else column[row]
                for place, column in enumerate(drawn)
            )
            for row in range(len(names))
        ),
    )


def _head(draws: Draws, field: Field) -> str:
    return field.called[0] if draws.chance(0.6) else draws.pick(field.called)


def _column(draws: Draws, field: Field, number: int) -> list[str]:
    """Draw a field's values, of similar shape mostly: people write a column in one way."""
    kind = draws.pick(field.kind.split("|"))
    values = [draws.value(kind)]
    mixed = draws.chance(MIXED_SHARE)
    for _ in range(number - 1):
        tries = [draws.value(kind)]
        while not mixed and _shape(tries[-1]) != _shape(values[0]) and len(tries) < 8:
            tries.append(draws.value(kind))
        values.append(tries[-1])
    return values


def _shape(text: str) -> str:
    """Return a text with all digits alike and all words alike."""
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", text))


def unique(values: Sequence[str | None], place: int) -> bool:
    """Return True where no other value equals the value at a place or holds it."""
    value = values[place]
    return value is not None and not any(
        value.casefold() in other.casefold()
        for at, other in enumerate(values)
        if at != place and other is not None
    )
