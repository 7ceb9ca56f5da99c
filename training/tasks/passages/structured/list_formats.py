"""Formats of keys with a value each; list_formats.toml lists them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from training.tasks.passages.structured import spellings
from training.tasks.passages.structured.data import load_data
from training.tasks.passages.structured.draft import Draft
from training.tasks.passages.structured.draws import Draws


@dataclass(frozen=True)
class WrittenList:
    """Keys and values in a format."""

    draft: Draft
    keys: list[str]
    "The keys as they are written."
    lines: list[tuple[int, int]]
    "The first and the last line of each entry."
    numbered: bool = False

    def find_name(self, entry: int, name: str) -> str:
        """Return the name of an entry as the list has it."""
        return name if name in "".join(self.draft.pieces) else self.keys[entry].strip('"')


@dataclass(frozen=True)
class ListFormat:
    """A format of keys with a value each.

    In its lines `{key}`, `{value}`, `{number}`, `{title}` and `{slug}` (the title as an identifier)
    are filled in, and `{comma}` with a comma before another entry.
    """

    line: str
    before: Sequence[str] = ()
    after: Sequence[str] = ()
    key: str = "verbatim"
    "The spelling of keys."
    value: str = "verbatim"
    "The spelling of values."
    identifiers: bool = False
    "Keys have to be identifiers."
    titled: bool = True
    "A title may stand above."
    aligned: str = ""
    "The sign that fills keys up to the same width, or empty."
    end: str = "\n"

    def __call__(
        self, title: str, keys: Sequence[str], values: Sequence[str], draws: Draws
    ) -> WrittenList:
        """Write entries, below a title where the format has room for it."""
        draft = Draft()
        if self.titled and not self.before and draws.chance(0.35):
            draft.add(draws.pick(("{}", "{}:", "# {}", "## {}", "== {} ==", "{}\n")).format(title))
        fill = {"title": title, "slug": spellings.snake_case(title) or "entries"}
        for line in self.before:
            draft.add(spellings.fill(line, fill), self.end)
        draft.lead = len(draft.pieces)
        shown = [spellings.SPELLINGS[self.key](key) for key in keys]
        lines = self._write_entries(draft, shown, values)
        for line in self.after:
            draft.add(spellings.fill(line, fill))
        return WrittenList(draft, shown, lines, numbered="{number}" in self.line)

    def _write_entries(
        self, draft: Draft, keys: Sequence[str], values: Sequence[str]
    ) -> list[tuple[int, int]]:
        width = max(map(len, keys)) + 2
        lines = []
        for number, (key, value) in enumerate(zip(keys, values, strict=True), start=1):
            fill = {"number": str(number), "comma": "," if number < len(keys) else ""}
            fill["key"] = key + self.aligned * (width - len(key))
            fill["value"] = spellings.SPELLINGS[self.value](value)
            first = len(draft.pieces)
            for line in self.line.split("\n"):
                draft.add(spellings.fill(line, fill), self.end)
            lines.append((first, len(draft.pieces) - 1))
        return lines


@cache
def load_list_formats() -> dict[str, ListFormat]:
    """Return the formats by name."""
    return {name: ListFormat(**table) for name, table in load_data("list_formats").items()}
