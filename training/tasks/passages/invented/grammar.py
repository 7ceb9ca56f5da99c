"""The grammar: relations with their sentences and questions, and kinds of documents."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gradmem_core.errors import DataError
from training.tasks.passages.invented.patterns import Pattern

FOLDER = Path(__file__).parent
Kind = str | tuple[str, ...]
"The kind of a slot: the name of a kind of entity or value, or the texts themselves."


@dataclass(frozen=True)
class Relation:
    """Facts of one kind: `s` is what they are about."""

    name: str
    theme: str
    "The file it is declared in; documents choose relations by theme."
    topics: tuple[str, ...]
    "Of the facts that share a topic, a passage tells no two about the same entity."
    slots: dict[str, Kind]
    forms: tuple[Pattern, ...]
    asks: dict[str, tuple[Pattern, ...]]
    "Questions by the slot that answers them."
    names_others: bool
    "Its values name people, whom a pronoun after them might mean."
    descriptions: tuple[Pattern, ...]
    "Ways to say in a question which `s` is meant, without its name."


@dataclass(frozen=True)
class DocumentKind:
    """Documents of one kind."""

    name: str
    titles: tuple[Pattern, ...]
    "First lines, with {main} for the first entity and {place} for a town; there may be none."
    subjects: tuple[str, ...]
    "Kinds of entities that facts are about, as often as they are named here."
    themes: tuple[str, ...]
    layouts: tuple[str, ...]
    "`prose`, `paragraphs`, `lines` or `bullets`."
    openers: tuple[str, ...]
    "Beginnings of sentences, each with the comma and blank that follow it."
    fillers: tuple[Pattern, ...]
    "Sentences without a fact."
    narrated: bool
    "A person called {main} tells it as `I`; every title then names them."


@cache
def load_relations() -> dict[str, Relation]:
    """Return the relations by name.

    Raises:
        DataError: A pattern is malformed, or a question is for a slot that its relation lacks.
    """
    relations: dict[str, Relation] = {}
    for path in sorted((FOLDER / "relations").glob("*.toml")):
        for name, table in tomllib.loads(path.read_text("utf-8")).items():
            relations[name] = _build_relation(name, path.stem, table)
    return relations


@cache
def load_documents() -> tuple[DocumentKind, ...]:
    """Return the kinds of documents."""
    tables = tomllib.loads((FOLDER / "documents.toml").read_text("utf-8"))
    fillers = tables.pop("fillers")
    return tuple(_build_document(name, table, fillers) for name, table in tables.items())


@cache
def load_words() -> dict[str, list[str]]:
    """Return the lists of words by name."""
    return tomllib.loads((FOLDER / "words.toml").read_text("utf-8"))


@cache
def load_parts() -> dict[str, list[str]]:
    """Return the parts of names by what they are parts of."""
    return tomllib.loads((FOLDER / "entities.toml").read_text("utf-8"))


def _build_relation(name: str, theme: str, table: dict[str, Any]) -> Relation:
    slots = {
        slot: tuple(kind) if isinstance(kind, list) else kind
        for slot, kind in table["slots"].items()
    }
    if unknown := sorted(set(table["ask"]) - set(slots)):
        raise DataError(f"{name} asks for {unknown}, which are not among its slots")
    asks = {slot: _parse_all(asks) for slot, asks in table["ask"].items()}
    return Relation(
        name=name,
        theme=theme,
        topics=(table.get("topic", name), *table.get("also", [])),
        slots=slots,
        forms=_parse_all(table["forms"]),
        asks=asks,
        names_others=table.get("names_others", False),
        descriptions=_parse_all(table.get("described", [])),
    )


def _build_document(
    name: str, table: dict[str, Any], fillers: dict[str, list[str]]
) -> DocumentKind:
    return DocumentKind(
        name=name,
        titles=_parse_all(table.get("titles", [])),
        subjects=tuple(table["subjects"]),
        themes=tuple(table["themes"]),
        layouts=tuple(table["layouts"]),
        openers=tuple(table.get("openers", [])),
        fillers=_parse_all(fillers[table["fillers"]]),
        narrated=table.get("narrated", False),
    )


def _parse_all(sources: Sequence[str]) -> tuple[Pattern, ...]:
    return tuple(Pattern(source) for source in sources)
