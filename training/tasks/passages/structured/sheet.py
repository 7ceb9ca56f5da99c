"""Records of one kind: what lists and tables hold before they are written in a format."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from training.tasks.passages.structured.data import load_data
from training.tasks.passages.structured.draws import Draws

MIXED_SHARE = 0.25
"Share of columns whose values are written in several ways."


@dataclass(frozen=True)
class Field:
    """A field of records."""

    labels: tuple[str, ...]
    "Nouns for it, the usual noun first; none where only wordings of its own fit."
    kind: str
    "The kind of its values; of several between bars, a column keeps to one."
    heads: tuple[str, ...] = ()
    "Other words that documents write above it: starts, due, written by."
    sort: str = ""
    "The group of wordings that fits it beside the general wordings."
    ask: tuple[str, ...] = ()
    "Wordings of its own that ask for its value."
    back: tuple[str, ...] = ()
    "Wordings of its own that ask for the record."

    @property
    def called(self) -> tuple[str, ...]:
        """All that documents write above it."""
        return self.labels + self.heads


@dataclass(frozen=True)
class Domain:
    """A kind of record."""

    what: str
    "The noun for a record: server."
    names: str
    "The kind of their names."
    titles: tuple[str, ...]
    fields: tuple[Field, ...]
    people: bool = False
    "The records are people or pets."

    @property
    def plural(self) -> str:
        """The noun for several records."""
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
def load_domains() -> dict[str, Domain]:
    """Return all kinds of records by name."""
    fields = {name: _build_field(entry) for name, entry in load_data("fields").items()}
    return {
        name: Domain(
            what=entry["what"],
            names=entry["names"],
            titles=tuple(entry["titles"]),
            fields=tuple(fields[name] for name in entry["fields"]),
            people=entry.get("people", False),
        )
        for name, entry in load_data("domains").items()
    }


def _build_field(entry: dict[str, str | list[str]]) -> Field:
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
        domain: The kind of record.
        records: Most records; fewer where names run out.
        columns: Most fields of a record.
        gaps: Share of the fields that a record lacks; never the first.
    """
    fields = tuple(draws.shuffled(domain.fields)[:columns])
    names = tuple(draws.different(domain.names, records))
    drawn = [_draw_column(draws, field, len(names)) for field in fields]
    return Sheet(
        domain=domain,
        title=draws.pick(domain.titles),
        corner=draws.pick(("name", domain.what)) if domain.people else domain.what,
        names=names,
        fields=fields,
        heads=tuple(_draw_head(draws, field) for field in fields),
        rows=tuple(
            tuple(
                None if place and draws.chance(gaps) else column[row]
                for place, column in enumerate(drawn)
            )
            for row in range(len(names))
        ),
    )


def _draw_head(draws: Draws, field: Field) -> str:
    return field.called[0] if draws.chance(0.6) else draws.pick(field.called)


def _draw_column(draws: Draws, field: Field, number: int) -> list[str]:
    """Draw a field's values, of similar shape mostly: people write a column in one way."""
    kind = draws.pick(field.kind.split("|"))
    values = [draws.value(kind)]
    mixed = draws.chance(MIXED_SHARE)
    for _ in range(number - 1):
        tries = [draws.value(kind)]
        while not mixed and _outline(tries[-1]) != _outline(values[0]) and len(tries) < 8:
            tries.append(draws.value(kind))
        values.append(tries[-1])
    return values


def _outline(text: str) -> str:
    """Return a text with all digits alike and all words alike."""
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", text))


def is_unique(values: Sequence[str | None], place: int) -> bool:
    """Return True where no other value equals the value at a place or holds it."""
    value = values[place]
    return value is not None and not any(
        value.casefold() in other.casefold()
        for at, other in enumerate(values)
        if at != place and other is not None
    )
