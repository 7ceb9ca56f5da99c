"""Formats of records with several fields.

To add a format, write a function of a sheet and add it to `TABLES`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from training.tasks.passages.structured import formats
from training.tasks.passages.structured.draws import Draws
from training.tasks.passages.structured.page import Page
from training.tasks.passages.structured.sheet import Sheet


@dataclass
class Layout:
    """A written sheet."""

    page: Page
    heads: list[str]
    "The fields as they are written."
    cells: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    "By record and field: the first and the last line that say the value."
    names: dict[int, int] = field(default_factory=dict)
    "The line of each record's name."
    columns: bool = False
    "True where fields stand in columns."
    nested: bool = False
    "True where people write `record.field`."

    def row(self, number: int, line: str, end: str = "\n") -> None:
        """Write a record on one line."""
        place = self.page.add(line, end)
        self.names[number] = place
        self.cells.update({(number, column): (place, place) for column in range(len(self.heads))})

    def open(self, number: int, *lines: str) -> None:
        """Write what begins a record, its name among it."""
        places = [self.page.add(line) for line in lines]
        self.names[number] = places[0]

    def cell(self, number: int, column: int, line: str) -> None:
        """Write a field of the record that was opened."""
        self.cells[number, column] = (self.names[number], self.page.add(line))


Table = Callable[[Sheet, Draws], Layout]


def _heads(sheet: Sheet, spelling: formats.Spelling) -> list[str]:
    return [spelling(head) for head in sheet.heads]


def _grid(sheet: Sheet, draws: Draws) -> tuple[list[str], list[list[str]]]:
    """Return the heads and the rows with their names, as people write them in tables."""
    spelling = draws.pick(formats.HEADS)
    empty = draws.pick(("-", "", "—"))
    rows = [
        [name, *(value or empty for value in values)]
        for name, values in zip(sheet.names, sheet.rows, strict=True)
    ]
    return [spelling(head) for head in (sheet.corner, *sheet.heads)], rows


def _rows(
    sheet: Sheet,
    draws: Draws,
    line: Callable[[Sequence[str], list[int]], str],
    rule: Callable[[list[int]], str] | None = None,
) -> Layout:
    """Write a table of a line for each record below a line of heads."""
    heads, rows = _grid(sheet, draws)
    room = formats.widths([heads, *rows])
    page = Page()
    if draws.chance(0.25):
        page.add(draws.pick(("{}:", "{}", "## {}", "**{}**")).format(sheet.title))
        page.gap()
    page.add(line(heads, room))
    if rule:
        page.add(rule(room))
    page.lead = len(page.pieces)
    layout = Layout(page, heads[1:], columns=True)
    for number, row in enumerate(rows):
        layout.row(number, line(row, room))
    return layout


def markdown(sheet: Sheet, draws: Draws) -> Layout:
    """Write a Markdown table with aligned bars."""
    return _rows(
        sheet,
        draws,
        lambda row, room: (
            "| " + " | ".join(v.ljust(w) for v, w in zip(row, room, strict=True)) + " |"
        ),
        lambda room: "|" + "|".join("-" * (width + 2) for width in room) + "|",
    )


def markdown_narrow(sheet: Sheet, draws: Draws) -> Layout:
    """Write a Markdown table as people type it."""
    return _rows(
        sheet,
        draws,
        lambda row, _: "| " + " | ".join(row) + " |",
        lambda room: "|" + "|".join("---" for _ in room) + "|",
    )


def bars(sheet: Sheet, draws: Draws) -> Layout:
    """Write columns between bars, without a rule."""
    return _rows(sheet, draws, lambda row, _: " | ".join(row))


def fixed_width(sheet: Sheet, draws: Draws) -> Layout:
    """Write columns of fixed widths."""
    joint = draws.pick(("  ", "   ", "    "))
    rule = (lambda room: joint.join("-" * width for width in room)) if draws.chance(0.4) else None
    return _rows(sheet, draws, lambda row, room: formats.padded(row, room, joint), rule)


def boxed(sheet: Sheet, draws: Draws) -> Layout:
    """Draw a table with plus signs, as database shells print it."""
    layout = _rows(
        sheet,
        draws,
        lambda row, room: (
            "| " + " | ".join(v.ljust(w) for v, w in zip(row, room, strict=True)) + " |"
        ),
        lambda room: "+" + "+".join("-" * (width + 2) for width in room) + "+",
    )
    layout.page.add(layout.page.pieces[layout.page.lead - 1].strip())
    return layout


def csv(sheet: Sheet, draws: Draws) -> Layout:
    """Write comma separated values, quoted where they must be."""
    return _rows(sheet, draws, lambda row, _: formats.csv_line(row))


def csv_quoted(sheet: Sheet, draws: Draws) -> Layout:
    """Write comma separated values in quotes."""
    return _rows(sheet, draws, lambda row, _: formats.csv_line(row, all_quoted=True))


def csv_semicolon(sheet: Sheet, draws: Draws) -> Layout:
    """Write values between semicolons, as spreadsheets of Europe do."""
    return _rows(sheet, draws, lambda row, _: formats.csv_line(row, comma=";"))


def tsv(sheet: Sheet, draws: Draws) -> Layout:
    """Write values between tabs, as they come from a spreadsheet."""
    return _rows(sheet, draws, lambda row, _: "\t".join(row))


def transposed(sheet: Sheet, draws: Draws) -> Layout:
    """Write a Markdown table whose columns are the records."""
    heads, rows = _grid(sheet, draws)
    page = Page(lead=2)
    page.add("| " + " | ".join([heads[0], *sheet.names]) + " |")
    page.add("|" + " --- |" * (len(rows) + 1))
    layout = Layout(page, heads[1:])
    for column, head in enumerate(heads[1:]):
        place = page.add("| " + " | ".join([head, *(row[column + 1] for row in rows)]) + " |")
        layout.cells.update({(number, column): (place, place) for number in range(len(rows))})
    return layout


def html(sheet: Sheet, draws: Draws) -> Layout:
    """Write an HTML table, a line a row."""
    heads, rows = _grid(sheet, draws)
    page = Page(lead=2)
    page.add("<table>")
    page.add("<tr>" + "".join(f"<th>{formats.xml_text(head)}</th>" for head in heads) + "</tr>")
    layout = Layout(page, heads[1:], columns=True)
    for number, row in enumerate(rows):
        cells = "".join(f"<td>{formats.xml_text(value)}</td>" for value in row)
        layout.row(number, f"<tr>{cells}</tr>")
    page.add("</table>")
    return layout


def sql_inserts(sheet: Sheet, draws: Draws) -> Layout:  # noqa: ARG001 (as all formats)
    """Write the rows of an SQL statement."""
    heads = _heads(sheet, formats.snake)
    page = Page(lead=1)
    table = formats.snake(sheet.domain.plural)
    page.add(f"INSERT INTO {table} ({', '.join([formats.snake(sheet.corner), *heads])}) VALUES")
    layout = Layout(page, heads, columns=True)
    for number, (name, values) in enumerate(zip(sheet.names, sheet.rows, strict=True)):
        written = [formats.sql_value(name)]
        written += ["NULL" if value is None else formats.sql_value(value) for value in values]
        mark = ";" if number == len(sheet.names) - 1 else ","
        layout.row(number, f"  ({', '.join(written)}){mark}")
    return layout


@dataclass(frozen=True)
class Blocks:
    """A format that gives each field a line.

    In its texts `{name}`, `{head}` and `{value}` are filled in, `{corner}` with the head of the
    names, `{plural}` with what the records are, and `{comma}` with a comma before another field or
    record.
    """

    opening: tuple[str, ...]
    "Lines that begin a record, the name in the first."
    cell: str
    closing: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    "Lines before all records, with `{title}` and `{plural}`."
    after: tuple[str, ...] = ()
    gap: bool = False
    "True where an empty line follows a record."
    heads: tuple[formats.Spelling, ...] = formats.KEYS
    name: formats.Spelling = formats.as_it_is
    value: formats.Spelling = formats.as_it_is
    nested: bool = True

    def __call__(self, sheet: Sheet, draws: Draws) -> Layout:
        """Write a sheet."""
        spelling = draws.pick(self.heads)
        layout = Layout(Page(lead=len(self.before)), _heads(sheet, spelling), nested=self.nested)
        plural, corner = formats.snake(sheet.domain.plural), spelling(sheet.corner)
        for line in self.before:
            layout.page.add(_filled(line, title=sheet.title, plural=plural))
        for number, name in enumerate(sheet.names):
            last = number == len(sheet.names) - 1
            fill = {"plural": plural, "corner": corner, "comma": "" if last else ","}
            fill["name"] = self.name(name)
            layout.open(number, *(_filled(line, **fill) for line in self.opening))
            self._cells(layout, number, sheet.rows[number])
            for line in self.closing:
                layout.page.add(_filled(line, **fill))
            if self.gap and not last:
                layout.page.gap()
        for line in self.after:
            layout.page.add(line)
        return layout

    def _cells(self, layout: Layout, number: int, values: Sequence[str | None]) -> None:
        there = [column for column, value in enumerate(values) if value is not None]
        for column in there:
            comma = "" if column == there[-1] else ","
            value = self.value(values[column] or "")
            line = _filled(self.cell, head=layout.heads[column], value=value, comma=comma)
            layout.cell(number, column, line)


def _filled(template: str, **fill: str) -> str:
    """Fill in names in braces; other braces stay."""
    for name, text in fill.items():
        template = template.replace(f"{{{name}}}", text)
    return template


@dataclass(frozen=True)
class Lines:
    """A format that gives each record a line of fields with their heads."""

    record: str
    "With `{name}`, `{corner}`, `{cells}` and `{comma}`."
    cell: str
    joint: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    heads: tuple[formats.Spelling, ...] = (str.lower, formats.as_it_is)
    name: formats.Spelling = formats.as_it_is
    value: formats.Spelling = formats.as_it_is
    end: str = "\n"
    nested: bool = False

    def __call__(self, sheet: Sheet, draws: Draws) -> Layout:
        """Write a sheet."""
        spelling = draws.pick(self.heads)
        layout = Layout(Page(lead=len(self.before)), _heads(sheet, spelling), nested=self.nested)
        plural = formats.snake(sheet.domain.plural)
        for line in self.before:
            layout.page.add(_filled(line, title=sheet.title, plural=plural), self.end)
        for number, name in enumerate(sheet.names):
            cells = self.joint.join(
                _filled(self.cell, head=head, value=self.value(value))
                for head, value in zip(layout.heads, sheet.rows[number], strict=True)
                if value is not None
            )
            comma = "" if number == len(sheet.names) - 1 else ","
            fill = {"corner": spelling(sheet.corner), "cells": cells, "comma": comma}
            layout.row(number, _filled(self.record, name=self.name(name), **fill), self.end)
        for line in self.after:
            layout.page.add(line)
        return layout


TABLES: dict[str, Table] = {
    "markdown": markdown,
    "markdown-narrow": markdown_narrow,
    "bars": bars,
    "fixed-width": fixed_width,
    "boxed": boxed,
    "csv": csv,
    "csv-quoted": csv_quoted,
    "csv-semicolon": csv_semicolon,
    "tsv": tsv,
    "transposed": transposed,
    "html": html,
    "sql-inserts": sql_inserts,
    "json-array": Blocks(
        ("  {", '    "{corner}": {name},'), '    "{head}": {value}{comma}', ("  }{comma}",),
        before=("[",), after=("]",), name=formats.quoted, value=formats.literal,
    ),
    "json-by-name": Blocks(
        ("  {name}: {",), '    "{head}": {value}{comma}', ("  }{comma}",),
        before=("{",), after=("}",), name=formats.quoted, value=formats.literal,
    ),
    "json-lines": Lines(
        '{"{corner}": {name}, {cells}}', '"{head}": {value}', ", ",
        heads=formats.KEYS, name=formats.quoted, value=formats.literal, nested=True,
    ),
    "json-compact": Lines(
        '{"{corner}": {name}, {cells}}{comma}', '"{head}": {value}', ", ", ("[",), ("]",),
        heads=formats.KEYS, name=formats.quoted, value=formats.literal, end="", nested=True,
    ),
    "yaml-list": Blocks(
        ("- {corner}: {name}",), "  {head}: {value}",
        name=formats.yaml_value, value=formats.yaml_value,
    ),
    "yaml-under": Blocks(
        ("  - {corner}: {name}",), "    {head}: {value}", before=("{plural}:",),
        name=formats.yaml_value, value=formats.yaml_value,
    ),
    "yaml-by-name": Blocks(
        ("{name}:",), "  {head}: {value}", name=formats.yaml_value, value=formats.yaml_value,
    ),
    "ini": Blocks(("[{name}]",), "{head} = {value}", gap=True),
    "ini-tight": Blocks(("[{name}]",), "{head}={value}", gap=True, heads=(formats.snake,)),
    "toml": Blocks(
        ("[{plural}.{name}]",), "{head} = {value}", gap=True,
        heads=(formats.snake, formats.kebab), name=formats.quoted, value=formats.literal,
    ),
    "toml-array": Blocks(
        ("[[{plural}]]", "{corner} = {name}"), "{head} = {value}", gap=True,
        heads=(formats.snake, formats.kebab), name=formats.quoted, value=formats.literal,
    ),
    "blocks": Blocks(
        ("{corner}: {name}",), "{head}: {value}", gap=True,
        heads=(formats.capital, str.title, str.lower), nested=False,
    ),
    "named-blocks": Blocks(
        ("{name}",), "{head}: {value}", gap=True, heads=formats.HEADS, nested=False,
    ),
    "indented": Blocks(
        ("{name}:",), "    {head}: {value}", heads=formats.HEADS, nested=False,
    ),
    "markdown-sections": Blocks(
        ("## {name}",), "- {head}: {value}", gap=True, before=("# {title}",),
        heads=formats.HEADS, nested=False,
    ),
    "markdown-bold": Blocks(
        ("### {name}",), "- **{head}:** {value}", gap=True,
        heads=formats.HEADS, nested=False,
    ),
    "nested-bullets": Blocks(
        ("- {name}",), "  - {head}: {value}", heads=formats.HEADS, nested=False,
    ),
    "xml": Blocks(
        ("  <record name={name}>",), "    <{head}>{value}</{head}>", ("  </record>",),
        before=("<records>",), after=("</records>",),
        heads=(formats.snake, formats.camel), name=formats.quoted, value=formats.xml_text,
    ),
    "python-dict": Blocks(
        ("    {name}: {",), '        "{head}": {value},', ("    },",),
        before=("{plural} = {",), after=("}",), heads=(formats.snake,),
        name=formats.quoted, value=formats.quoted,
    ),
    "python-list": Lines(
        '    {"{corner}": {name}, {cells}},', '"{head}": {value}', ", ", ("{plural} = [",), ("]",),
        heads=(formats.snake,), name=formats.quoted, value=formats.quoted, nested=True,
    ),
    "javascript": Lines(
        "  { {corner}: {name}, {cells} },", "{head}: {value}", ", ",
        ("const {plural} = [",), ("];",), heads=(formats.camel,),
        name=formats.quoted, value=formats.literal, nested=True,
    ),
    "logfmt": Lines(
        "{corner}={name} {cells}", "{head}={value}", " ", heads=(formats.snake,),
        name=lambda text: formats.quoted(text) if " " in text else text,
        value=lambda text: formats.quoted(text) if " " in text else text,
    ),
    "bullets": Lines("- {name}: {cells}", "{head} {value}", ", "),
    "bullets-brackets": Lines("* {name} ({cells})", "{head}: {value}", "; "),
    "dashes": Lines("{name} - {cells}", "{head} {value}", " - "),
    "semicolons": Lines("{name}: {cells}", "{head} = {value}", "; "),
    "sentences": Lines("{name} has {cells}.", "{head} {value}", ", "),
}  # fmt: skip
"Formats by name."
TALL = {name for name, table in TABLES.items() if isinstance(table, Blocks)}
"Formats that give each field a line."
