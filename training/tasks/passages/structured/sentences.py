"""Sentences that people say and programs log, with a value in each; texts with kinds in braces."""

from dataclasses import dataclass
from functools import cache

from training.tasks.passages.structured.data import load_data


@dataclass(frozen=True)
class Sentence:
    """Something that people say or programs log."""

    key: str
    "The name of the value: `door code`."
    kind: str
    "The kind of the value."
    texts: tuple[str, ...]
    "With {value} in each."
    ask: tuple[str, ...] = ()
    "Wordings of its own."


@cache
def load_sentences(group: str) -> tuple[Sentence, ...]:
    """Return the sentences of a group: `said` or `logged`."""
    return tuple(
        Sentence(entry["key"], entry["kind"], tuple(entry["texts"]), tuple(entry.get("ask", ())))
        for entry in load_data("sentences")[group]
    )


def load_patterns(group: str) -> list[str]:
    """Return the texts of a group with kinds in braces: `happened`, `changed`, `instructions`."""
    patterns: list[str] = load_data("sentences")[group]["texts"]
    return patterns
