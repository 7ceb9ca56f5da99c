"""Formats of records with several fields.

table_formats.toml lists those that need no code; the others are functions here (see WRITERS).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

from training.tasks.passages.structured import spellings
from training.tasks.passages.structured.data import load_data
from training.tasks.passages.structured.draft import Draft
from training.tasks.passages.structured.draws import Draws
from training.tasks.passages.structured.sheet import Sheet


@dataclass
class WrittenTable:
    """A sheet in a format."""

    draft: Draft
    heads: list[str]
    "The fields as they are written."
    cells: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    "By record and field: the first and the last line that say the value."
    names: dict[int, int] = field(default_factory=dict)
    "The line of each record's name."
    columns: bool = False
    "Fields stand in columns."
    nested: bool = False
    "People write `record.field`."

    def add_row(self, number: int, line: str, end: str = "\n") -> None:
        """Write a record on one line."""
        place = self.draft.add(line, end)
        self.names[number] = place
        self.cells.update({(number, column): (place, place) for column in range(len(self.heads))})

    def begin_record(self, number: int, *lines: str) -> None:
        """Begin a record with lines, the first of which holds its name."""
        places = [self.draft.add(line) for line in lines]
        self.names[number] = places[0]

    def add_cell(self, number: int, column: int, line: str) -> None:
        """Write a field of the record that was begun."""
        self.cells[number, column] = (self.names[number], self.draft.add(line))


TableFormat = Callable[[Sheet, Draws], WrittenTable]


def _spell_heads(sheet: Sheet, spell: spellings.Spelling) -> list[str]:
    return [spell(head) for head in sheet.heads]


def _draw_grid(sheet: Sheet, draws: Draws) -> tuple[list[str], list[list[str]]]:
    """Return the heads and the rows with their names, as people write them in tables."""
    spell = draws.pick(spellings.find_group("heads"))
    empty = draws.pick(("-", "", "—"))
    rows = [
        [name, *(value or empty for value in values)]
        for name, values in zip(sheet.names, sheet.rows, strict=True)
    ]
    return [spell(head) for head in (sheet.corner, *sheet.heads)], rows


def _write_rows(
    sheet: Sheet,
    draws: Draws,
    line: Callable[[Sequence[str], list[int]], str],
    rule: Callable[[list[int]], str] | None = None,
) -> WrittenTable:
    """Write a table of a line for each record below a line of heads."""
    heads, rows = _draw_grid(sheet, draws)
    room = spellings.column_widths([heads, *rows])
    draft = Draft()
    if draws.chance(0.25):
        draft.add(draws.pick(("{}:", "{}", "## {}", "**{}**")).format(sheet.title))
        draft.gap()
    draft.add(line(heads, room))
    if rule:
        draft.add(rule(room))
    draft.lead = len(draft.pieces)
    table = WrittenTable(draft, heads[1:], columns=True)
    for number, row in enumerate(rows):
        table.add_row(number, line(row, room))
    return table


def _join_bars(row: Sequence[str], room: list[int]) -> str:
    return "| " + " | ".join(v.ljust(w) for v, w in zip(row, room, strict=True)) + " |"


def write_markdown(sheet: Sheet, draws: Draws) -> WrittenTable:
    """Write a Markdown table with aligned bars."""
    return _write_rows(
        sheet,
        draws,
        _join_bars,
        lambda room: "|" + "|".join("-" * (width + 2) for width in room) + "|",
    )


def write_markdown_narrow(sheet: Sheet, draws: Draws) -> WrittenTable:
    """Write a Markdown table as people type it."""
    return _write_rows(
        sheet,
        draws,
        lambda row, _: "| " + " | ".join(row) + " |",
        lambda room: "|" + "|".join("---" for _ in room) + "|",
    )


def write_bars(sheet: Sheet, draws: Draws) -> WrittenTable:
    """Write columns between bars, without a rule."""
    return _write_rows(sheet, draws, lambda row, _: " | ".join(row))


def write_fixed_width(sheet: Sheet, draws: Draws) -> WrittenTable:
    """Write columns of fixed widths."""
    joint = draws.pick(("  ", "   ", "    "))
    rule = (lambda room: joint.join("-" * width for width in room)) if draws.chance(0.4) else None
    return _write_rows(
        sheet, draws, lambda row, room: spellings.join_padded(row, room, joint), rule
    )


def write_boxed(sheet: Sheet, draws: Draws) -> WrittenTable:
    """Draw a table with plus signs, as database shells print it."""
    table = _write_rows(
        sheet,
        draws,
        _join_bars,
        lambda room: "+" + "+".join("-" * (width + 2) for width in room) + "+",
    )
    table.draft.add(table.draft.pieces[table.draft.lead - 1].strip())
    return table


def write_csv(sheet: Sheet, draws: Draws) -> WrittenTable:
    """Write comma separated values, quoted where they must be."""
    return _write_rows(sheet, draws, lambda row, _: spellings.csv_row(row))


def write_csv_quoted(sheet: Sheet, draws: Draws) -> WrittenTable:
    """Write comma separated values in quotes."""
    return _write_rows(sheet, draws, lambda row, _: spellings.csv_row(row, quote_all=True))


def write_csv_semicolon(sheet: Sheet, draws: Draws) -> WrittenTable:
    """Write values between semicolons, as spreadsheets of Europe do."""
    return _write_rows(sheet, draws, lambda row, _: spellings.csv_row(row, comma=";"))


def write_tsv(sheet: Sheet, draws: Draws) -> WrittenTable:
    """Write values between tabs, as they come from a spreadsheet."""
    return _write_rows(sheet, draws, lambda row, _: "\t".join(row))


def write_transposed(sheet: Sheet, draws: Draws) -> WrittenTable:
    """Write a Markdown table whose columns are the records."""
    heads, rows = _draw_grid(sheet, draws)
    draft = Draft(lead=2)
    draft.add("| " + " | ".join([heads[0], *sheet.names]) + " |")
    draft.add("|" + " --- |" * (len(rows) + 1))
    table = WrittenTable(draft, heads[1:])
    for column, head in enumerate(heads[1:]):
        place = draft.add("| " + " | ".join([head, *(row[column + 1] for row in rows)]) + " |")
        table.cells.update({(number, column): (place, place) for number in range(len(rows))})
    return table


def write_html(sheet: Sheet, draws: Draws) -> WrittenTable:
    """Write an HTML table, a line a row."""
    heads, rows = _draw_grid(sheet, draws)
    draft = Draft(lead=2)
    draft.add("<table>")
    draft.add(
        "<tr>" + "".join(f"<th>{spellings.escape_xml(head)}</th>" for head in heads) + "</tr>"
    )
    table = WrittenTable(draft, heads[1:], columns=True)
    for number, row in enumerate(rows):
        cells = "".join(f"<td>{spellings.escape_xml(value)}</td>" for value in row)
        table.add_row(number, f"<tr>{cells}</tr>")
    draft.add("</table>")
    return table


def write_sql_inserts(sheet: Sheet, draws: Draws) -> WrittenTable:  # noqa: ARG001 (as all formats)
    """Write the rows of an SQL statement."""
    heads = _spell_heads(sheet, spellings.snake_case)
    draft = Draft(lead=1)
    name = spellings.snake_case(sheet.domain.plural)
    draft.add(
        f"INSERT INTO {name} ({', '.join([spellings.snake_case(sheet.corner), *heads])}) VALUES"
    )
    table = WrittenTable(draft, heads, columns=True)
    for number, (name, values) in enumerate(zip(sheet.names, sheet.rows, strict=True)):
        written = [spellings.sql_value(name)]
        written += ["NULL" if value is None else spellings.sql_value(value) for value in values]
        mark = ";" if number == len(sheet.names) - 1 else ","
        table.add_row(number, f"  ({', '.join(written)}){mark}")
    return table


@dataclass(frozen=True)
class BlockFormat:
    """A format that gives each field a line.

    In its texts `{name}`, `{head}` and `{value}` are filled in, `{corner}` with the head of the
    names, `{plural}` with what the records are, and `{comma}` with a comma before another field or
    record.
    """

    opening: Sequence[str]
    "Lines that begin a record, the name in the first."
    cell: str
    closing: Sequence[str] = ()
    before: Sequence[str] = ()
    "Lines before all records, with `{title}` and `{plural}`."
    after: Sequence[str] = ()
    gap: bool = False
    "An empty line follows a record."
    heads: str | Sequence[str] = "keys"
    "Spellings of the fields' heads, of which a document draws one."
    name: str = "verbatim"
    value: str = "verbatim"
    nested: bool = True

    def __call__(self, sheet: Sheet, draws: Draws) -> WrittenTable:
        """Write a sheet."""
        spell = draws.pick(spellings.find_group(self.heads))
        table = WrittenTable(
            Draft(lead=len(self.before)), _spell_heads(sheet, spell), nested=self.nested
        )
        plural, corner = spellings.snake_case(sheet.domain.plural), spell(sheet.corner)
        for line in self.before:
            table.draft.add(spellings.fill(line, {"title": sheet.title, "plural": plural}))
        for number, name in enumerate(sheet.names):
            last = number == len(sheet.names) - 1
            fill = {"plural": plural, "corner": corner, "comma": "" if last else ","}
            fill["name"] = spellings.SPELLINGS[self.name](name)
            table.begin_record(number, *(spellings.fill(line, fill) for line in self.opening))
            self._write_cells(table, number, sheet.rows[number])
            for line in self.closing:
                table.draft.add(spellings.fill(line, fill))
            if self.gap and not last:
                table.draft.gap()
        for line in self.after:
            table.draft.add(line)
        return table

    def _write_cells(self, table: WrittenTable, number: int, values: Sequence[str | None]) -> None:
        there = [column for column, value in enumerate(values) if value is not None]
        for column in there:
            comma = "" if column == there[-1] else ","
            value = spellings.SPELLINGS[self.value](values[column] or "")
            fill = {"head": table.heads[column], "value": value, "comma": comma}
            table.add_cell(number, column, spellings.fill(self.cell, fill))


@dataclass(frozen=True)
class LineFormat:
    """A format that gives each record a line of fields with their heads."""

    record: str
    "With `{name}`, `{corner}`, `{cells}` and `{comma}`."
    cell: str
    joint: str
    before: Sequence[str] = ()
    after: Sequence[str] = ()
    heads: str | Sequence[str] = ("lower", "verbatim")
    "Spellings of the fields' heads, of which a document draws one."
    name: str = "verbatim"
    value: str = "verbatim"
    end: str = "\n"
    nested: bool = False

    def __call__(self, sheet: Sheet, draws: Draws) -> WrittenTable:
        """Write a sheet."""
        spell = draws.pick(spellings.find_group(self.heads))
        table = WrittenTable(
            Draft(lead=len(self.before)), _spell_heads(sheet, spell), nested=self.nested
        )
        plural = spellings.snake_case(sheet.domain.plural)
        for line in self.before:
            table.draft.add(
                spellings.fill(line, {"title": sheet.title, "plural": plural}), self.end
            )
        for number, name in enumerate(sheet.names):
            cells = self.joint.join(
                spellings.fill(
                    self.cell, {"head": head, "value": spellings.SPELLINGS[self.value](value)}
                )
                for head, value in zip(table.heads, sheet.rows[number], strict=True)
                if value is not None
            )
            comma = "" if number == len(sheet.names) - 1 else ","
            fill = {"name": spellings.SPELLINGS[self.name](name), "corner": spell(sheet.corner)}
            fill |= {"cells": cells, "comma": comma}
            table.add_row(number, spellings.fill(self.record, fill), self.end)
        for line in self.after:
            table.draft.add(line)
        return table


WRITERS: dict[str, TableFormat] = {
    "markdown": write_markdown,
    "markdown-narrow": write_markdown_narrow,
    "bars": write_bars,
    "fixed-width": write_fixed_width,
    "boxed": write_boxed,
    "csv": write_csv,
    "csv-quoted": write_csv_quoted,
    "csv-semicolon": write_csv_semicolon,
    "tsv": write_tsv,
    "transposed": write_transposed,
    "html": write_html,
    "sql-inserts": write_sql_inserts,
}
"Formats that need code, by name."


@cache
def load_table_formats() -> dict[str, TableFormat]:
    """Return all formats by name."""
    listed: dict[str, TableFormat] = {
        name: BlockFormat(**table) if "opening" in table else LineFormat(**table)
        for name, table in load_data("table_formats").items()
    }
    return WRITERS | listed
