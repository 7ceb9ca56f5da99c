"""Formats of keys with a value each.

To add a format, add a line to `LISTS`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from training.tasks.passages.structured import formats
from training.tasks.passages.structured.draws import Draws
from training.tasks.passages.structured.page import Page


@dataclass(frozen=True)
class Listed:
    """Written keys and values."""

    page: Page
    keys: list[str]
    "The keys as they are written."
    places: list[tuple[int, int]]
    "The first and the last line of each key."
    numbered: bool = False


@dataclass(frozen=True)
class Entries:
    """A format of keys with a value each.

    In its texts `{key}` and `{value}` are filled in, `{number}`, `{comma}` with a comma before
    another entry, `{title}` and `{slug}`, the title as an identifier.
    """

    line: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    key: formats.Spelling = formats.as_it_is
    value: formats.Spelling = formats.as_it_is
    identifiers: bool = False
    "True where keys have to be identifiers."
    titled: bool = True
    "True where a title may stand above."
    aligned: str = ""
    "The sign that fills the keys up to the same width; empty: none does."
    end: str = "\n"

    def __call__(
        self, title: str, keys: Sequence[str], values: Sequence[str], draws: Draws
    ) -> Listed:
        """Write entries, below a title where the format has room for it."""
        page = Page()
        if self.titled and not self.before and draws.chance(0.35):
            page.add(draws.pick(("{}", "{}:", "# {}", "## {}", "== {} ==", "{}\n")).format(title))
        fill = {"title": title, "slug": formats.snake(title) or "entries"}
        for line in self.before:
            page.add(_filled(line, fill), self.end)
        page.lead = len(page.pieces)
        shown = [self.key(key) for key in keys]
        places = self._entries(page, shown, values)
        for line in self.after:
            page.add(_filled(line, fill))
        return Listed(page, shown, places, numbered="{number}" in self.line)

    def _entries(
        self, page: Page, keys: Sequence[str], values: Sequence[str]
    ) -> list[tuple[int, int]]:
        width = max(map(len, keys)) + 2
        places = []
        for number, (key, value) in enumerate(zip(keys, values, strict=True), start=1):
            fill = {"number": str(number), "comma": "," if number < len(keys) else ""}
            fill["key"] = key + self.aligned * (width - len(key))
            fill["value"] = self.value(value)
            first = len(page.pieces)
            for line in self.line.split("\n"):
                page.add(_filled(line, fill), self.end)
            places.append((first, len(page.pieces) - 1))
        return places


def _filled(template: str, fill: dict[str, str]) -> str:
    """Fill in names in braces; other braces stay."""
    for name, text in fill.items():
        template = template.replace(f"{{{name}}}", text)
    return template


def _shell_value(text: str) -> str:
    return text if text.replace("_", "").isalnum() else formats.quoted(text)


LISTS: dict[str, Entries] = {
    "colon": Entries("{key}: {value}"),
    "colon-capital": Entries("{key}: {value}", key=formats.capital),
    "equals": Entries("{key} = {value}"),
    "equals-tight": Entries("{key}={value}"),
    "dash": Entries("{key} - {value}"),
    "long-dash": Entries("{key} — {value}"),
    "arrow": Entries("{key} -> {value}"),
    "arrow-sign": Entries("{key} → {value}"),
    "tab": Entries("{key}\t{value}"),
    "bar": Entries("{key} | {value}"),
    "dotted": Entries("{key} {value}", aligned="."),
    "aligned": Entries("{key} {value}", aligned=" "),
    "aligned-colon": Entries("{key}: {value}", aligned=" "),
    "dashes": Entries("- {key}: {value}"),
    "stars": Entries("* {key}: {value}"),
    "bullets": Entries("• {key}: {value}"),
    "bullets-dash": Entries("- {key} - {value}"),
    "numbered": Entries("{number}. {key}: {value}"),
    "numbered-bracket": Entries("{number}) {key} - {value}"),
    "bold": Entries("- **{key}**: {value}"),
    "bold-line": Entries("**{key}:** {value}"),
    "code-bullets": Entries("- `{key}`: {value}"),
    "brackets": Entries("- {key} ({value})"),
    "boxes": Entries("- [ ] {key} ({value})"),
    "quoted": Entries("> {key}: {value}"),
    "two-lines": Entries("{key}\n  {value}"),
    "definition": Entries("{key}\n: {value}"),
    "questions": Entries("Q: {key}?\nA: {value}"),
    "one-line": Entries("{key}: {value}{comma} ", end="", titled=False),
    "one-line-equals": Entries("{key}={value}; ", end="", titled=False),
    "markdown": Entries("| {key} | {value} |", ("| Name | Value |", "| --- | --- |")),
    "csv": Entries("{key},{value}", ("key,value",), value=lambda v: formats.csv_line([v])),
    "csv-bare": Entries("{key};{value}", titled=False),
    "json": Entries(
        "  {key}: {value}{comma}", ("{",), ("}",), key=formats.quoted, value=formats.literal
    ),
    "json-compact": Entries(
        "{key}: {value}{comma} ", ("{",), ("}",), key=formats.quoted, value=formats.literal, end=""
    ),
    "json-nested": Entries(
        "    {key}: {value}{comma}", ("{", '  "{slug}": {'), ("  }", "}"),
        key=formats.quoted, value=formats.literal,
    ),
    "yaml": Entries("{key}: {value}", key=formats.yaml_value, value=formats.yaml_value),
    "yaml-nested": Entries(
        "  {key}: {value}", ("{slug}:",), key=formats.yaml_value, value=formats.yaml_value
    ),
    "yaml-quoted": Entries("{key}: {value}", key=formats.yaml_value, value=formats.quoted),
    "ini": Entries("{key} = {value}", ("[{slug}]",), key=formats.snake, identifiers=True),
    "ini-tight": Entries("{key}={value}", ("[{slug}]",), key=formats.kebab, identifiers=True),
    "toml": Entries(
        "{key} = {value}", ("[{slug}]",), key=formats.snake, value=formats.literal,
        identifiers=True,
    ),
    "env": Entries(
        "{key}={value}", key=formats.upper_snake, value=_shell_value, identifiers=True,
        titled=False,
    ),
    "exports": Entries(
        "export {key}={value}", key=formats.upper_snake, value=formats.quoted, identifiers=True,
        titled=False,
    ),
    "properties": Entries("app.{key}={value}", key=formats.kebab, identifiers=True, titled=False),
    "options": Entries("--{key} {value}", key=formats.kebab, identifiers=True, titled=False),
    "python": Entries(
        "{key} = {value}", key=formats.upper_snake, value=formats.literal, identifiers=True,
        titled=False,
    ),
    "python-dict": Entries(
        "    {key}: {value},", ("{slug} = {",), ("}",), key=formats.quoted, value=formats.quoted
    ),
    "javascript": Entries(
        "  {key}: {value},", ("export const {slug} = {",), ("};",), key=formats.camel,
        value=formats.literal, identifiers=True,
    ),
    "javascript-constants": Entries(
        "const {key} = {value};", key=formats.upper_snake, value=formats.literal, identifiers=True,
        titled=False,
    ),
    "go": Entries(
        "\t{key} = {value}", ("const (",), (")",), key=formats.pascal, value=formats.literal,
        identifiers=True,
    ),
    "rust": Entries(
        "pub const {key}: &str = {value};", key=formats.upper_snake, value=formats.quoted,
        identifiers=True, titled=False,
    ),
    "defines": Entries(
        "#define {key} {value}", key=formats.upper_snake, value=formats.literal, identifiers=True,
        titled=False,
    ),
    "css": Entries(
        "  --{key}: {value};", (":root {",), ("}",), key=formats.kebab, identifiers=True
    ),
    "sql": Entries(
        "SET {key} = {value};", key=formats.snake, value=formats.sql_value, identifiers=True,
        titled=False,
    ),
    "xml": Entries(
        "  <{key}>{value}</{key}>", ("<{slug}>",), ("</{slug}>",), key=formats.snake,
        value=formats.xml_text, identifiers=True,
    ),
    "html": Entries(
        "  <li><b>{key}</b> {value}</li>", ("<ul>",), ("</ul>",), key=formats.xml_text,
        value=formats.xml_text,
    ),
    "headers": Entries("X-{key}: {value}", key=formats.kebab, identifiers=True, titled=False),
}  # fmt: skip
"Formats by name."
