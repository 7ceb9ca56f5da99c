"""Documents of records with several fields, in one of the formats of table_formats.py."""

from collections.abc import Iterator

from training.tasks.passages.structured import spellings
from training.tasks.passages.structured.draft import Draft
from training.tasks.passages.structured.draws import Draws
from training.tasks.passages.structured.questions import CellQuestions, general_wordings
from training.tasks.passages.structured.sheet import Sheet, draw_sheet, load_domains
from training.tasks.passages.structured.table_formats import (
    BlockFormat,
    WrittenTable,
    load_table_formats,
)
from training.tasks.passages.structured.wordings import find_wordings

MOST_LINES = 25
MOST_RECORDS, MOST_COLUMNS = 12, 6
GAPPED_SHARE, GAPS = 0.35, 0.2
"Share of tables whose records lack fields, and the share of their fields that are lacking."


def write_table(draws: Draws, format_name: str | None = None) -> Draft:
    """Write records with several fields in a format, drawn unless given."""
    formats = load_table_formats()
    write = formats[format_name or draws.pick(list(formats))]
    columns = draws.between(2, MOST_COLUMNS)
    most = MOST_RECORDS
    if isinstance(write, BlockFormat):  # a line for each field
        columns = min(columns, 5)
        most = max(2, (MOST_LINES - 2) // (columns + 3))
    gaps = GAPS if draws.chance(GAPPED_SHARE) else 0.0
    domain = draws.pick(list(load_domains().values()))
    records = draws.between(2, most)
    sheet = draw_sheet(draws, domain, records=records, columns=columns, gaps=gaps)
    return ask_about_table(sheet, write(sheet, draws), draws)


def ask_about_table(sheet: Sheet, table: WrittenTable, draws: Draws) -> Draft:
    """Ask about the cells of a written sheet."""
    questions = CellQuestions(sheet, tuple(table.heads), draws)
    draft = table.draft
    for (row, column), lines in table.cells.items():
        value = sheet.rows[row][column]
        if value is None:
            draft.ask_absent(questions.ask(column), **questions.fill(row, column))
            continue
        wordings = _ask_cell(table, questions, column)
        draft.ask(wordings, value, lines, **questions.fill(row, column))
        _ask_back(table, questions, row, column)
    for row, column in _find_left_out(sheet, table):
        draft.ask_absent(questions.ask(column), **questions.fill(row, column))
    if len(sheet.names) > 2:
        draft.ask("cell.first", sheet.names[0], draft.whole, what=sheet.domain.what)
        draft.ask("cell.last", sheet.names[-1], draft.whole, what=sheet.domain.what)
    _ask_for_other_fields(draft, questions)
    _ask_for_other_records(draft, questions)
    return draft


def _ask_cell(table: WrittenTable, questions: CellQuestions, column: int) -> tuple[str, ...]:
    """Draw the wordings for a field of a record."""
    if table.columns and questions.draws.chance(0.08):
        return find_wordings("cell.table")
    if table.nested and questions.draws.chance(0.12):
        return find_wordings("cell.path")
    return questions.ask(column)


def _find_left_out(sheet: Sheet, table: WrittenTable) -> Iterator[tuple[int, int]]:
    """Find the fields that a format leaves out where a record lacks them."""
    for row, values in enumerate(sheet.rows):
        for column, value in enumerate(values):
            if value is None and (row, column) not in table.cells:
                yield row, column


def _ask_back(table: WrittenTable, questions: CellQuestions, row: int, column: int) -> None:
    """Ask for the record, and for another of its fields, by a value that only it has."""
    sheet, draft, draws = questions.sheet, table.draft, questions.draws
    if not questions.identifies(row, column):
        return
    lines = table.cells[row, column]
    fill = questions.fill(row, column)
    draft.ask(questions.ask_back(column), sheet.names[row], lines, **fill)
    values = sheet.rows[row]
    others = [(c, v) for c, v in enumerate(values) if c != column and v is not None]
    if others and draws.chance(0.2):
        other, answer = draws.pick(others)
        places = (*lines, *table.cells[row, other])
        label = questions.label(other)
        draft.ask("cell.across", answer, (min(places), max(places)), **fill, other=label)


def _ask_for_other_fields(draft: Draft, questions: CellQuestions) -> None:
    """Ask for fields of the domain that the records do not have."""
    sheet, draws = questions.sheet, questions.draws
    known = [spellings.snake_case(name) for field in sheet.fields for name in field.called]
    sorts = {field.sort for field in sheet.fields}
    for other in sheet.domain.fields:
        strange = not any(spellings.snake_case(name) in known for name in other.called)
        if other not in sheet.fields and strange and (not other.sort or other.sort not in sorts):
            row = draws.between(0, len(sheet.names) - 1)
            fill = {"name": sheet.names[row], "what": sheet.domain.what}
            fill["label"] = draws.pick(other.labels or other.heads)
            wordings = (*general_wordings(other), *other.ask, *other.ask)
            draft.ask_absent(wordings, *other.called, **fill)


def _ask_for_other_records(draft: Draft, questions: CellQuestions) -> None:
    """Ask for names and values like those that are there."""
    sheet, draws = questions.sheet, questions.draws
    for name in draws.other_names(sheet.domain.names, sheet.names):
        column = draws.between(0, len(sheet.fields) - 1)
        fill = questions.fill(0, column) | {"name": name}
        draft.ask_absent(questions.ask(column), name, **fill)
    for row in range(min(2, len(sheet.rows))):
        column = draws.between(0, len(sheet.fields) - 1)
        value = sheet.rows[row][column]
        near = draws.near(value) if value else ""
        if near != (value or "") and any(sign.isdigit() for sign in near):
            wordings = questions.ask_back(column)
            draft.ask_absent(wordings, near, **questions.fill(row, column) | {"value": near})
