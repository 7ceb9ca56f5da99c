"""Documents of keys and values, in one of the formats of list_formats.py.

Lists of a single field, all fields of a single record, and keys of unknown meaning.
"""

from collections.abc import Sequence

from training.tasks.passages.structured import spellings
from training.tasks.passages.structured.data import load_data
from training.tasks.passages.structured.draft import Draft
from training.tasks.passages.structured.draws import Draws, shared_ingredients
from training.tasks.passages.structured.list_formats import WrittenList, load_list_formats
from training.tasks.passages.structured.questions import CellQuestions
from training.tasks.passages.structured.sheet import Field, draw_sheet, is_unique, load_domains
from training.tasks.passages.structured.wordings import find_wordings

MOST_ENTRIES = 11
"Entries above which a format has to give each a single line."


def write_entries(draws: Draws, format_name: str | None = None) -> Draft:
    """Write a list of a single field: names with their values."""
    domain = draws.pick(list(load_domains().values()))
    records = draws.between(3, 20) if draws.chance(0.3) else draws.between(1, 9)
    sheet = draw_sheet(draws, domain, records=records, columns=1)
    values = [row[0] or "" for row in sheet.rows]
    title = draws.pick((sheet.title, spellings.capitalise(sheet.heads[0])))
    written = _write_list(draws, title, sheet.names, values, format_name)
    questions = CellQuestions(sheet, sheet.heads, draws)
    draft = written.draft
    for row, (value, lines) in enumerate(zip(values, written.lines, strict=True)):
        wordings = questions.ask(0) if draws.chance(0.6) else _find_entry_wordings(sheet.fields[0])
        fill = questions.fill(row, 0)
        fill["name"] = _choose_key(draws, sheet.names[row], written.keys[row])
        draft.ask(wordings, value, lines, **fill)
        if questions.identifies(row, 0):
            name = written.find_name(row, sheet.names[row])
            draft.ask(questions.ask_back(0), name, lines, **fill)
    for name in draws.other_names(sheet.domain.names, sheet.names):
        wordings = questions.ask(0) if draws.chance(0.5) else _find_entry_wordings(sheet.fields[0])
        draft.ask_absent(wordings, name, **questions.fill(0, 0) | {"name": name})
    _ask_for_other_fields(draft, questions)
    _ask_ends(written, sheet.domain.what, sheet.names)
    return draft


def _find_entry_wordings(field: Field) -> tuple[str, ...]:
    return find_wordings("entry.ask" if field.labels else "plain.ask")


def _ask_for_other_fields(draft: Draft, questions: CellQuestions) -> None:
    """Ask for fields that a list of a single field does not have."""
    sheet, draws = questions.sheet, questions.draws
    for other in draws.some(sheet.domain.fields, 4):
        if other not in sheet.fields and (not other.sort or other.sort != sheet.fields[0].sort):
            fill = questions.fill(draws.between(0, len(sheet.names) - 1), 0)
            draft.ask_absent(other.ask, *other.called, **fill)


def write_card(draws: Draws, format_name: str | None = None) -> Draft:
    """Write all that is known of a single record."""
    domain = draws.pick(list(load_domains().values()))
    columns = draws.between(2, len(domain.fields) - 2)
    sheet = draw_sheet(draws, domain, records=1, columns=columns)
    values = [value or "" for value in sheet.rows[0]]
    named = draws.chance(0.5)
    title = sheet.domain.what if named else sheet.names[0]
    written = _write_list(
        draws,
        spellings.capitalise(title),
        [sheet.corner, *sheet.heads] if named else sheet.heads,
        [sheet.names[0], *values] if named else values,
        format_name,
    )
    questions = CellQuestions(sheet, tuple(written.keys[named:]), draws)
    _ask_about_card(written, questions, named=named)
    return written.draft


def _ask_about_card(written: WrittenList, questions: CellQuestions, *, named: bool) -> None:
    draft, sheet, draws = written.draft, questions.sheet, questions.draws
    general = find_wordings("card.card_who" if sheet.domain.people else "card.ask")
    called = [f"the {sheet.domain.what}"]
    if not named and draft.lead and sheet.names[0] in draft.pieces[0]:
        called.append(sheet.names[0])
    for column, field in enumerate(sheet.fields):
        fill = questions.fill(0, column) | {"name": draws.pick(called)}
        fill["label"] = fill["label"].strip('"')
        wordings = general if field.labels and draws.chance(0.6) else field.ask or general
        value = sheet.rows[0][column]
        assert value is not None
        draft.ask(wordings, value, written.lines[column + named], **fill)
    if named:
        fill = {"what": sheet.domain.what, "label": sheet.corner}
        draft.ask(general, sheet.names[0], written.lines[0], **fill)
    known = {field.sort for field in sheet.fields}
    for other in sheet.domain.fields:
        if other not in sheet.fields and (not other.sort or other.sort not in known):
            fill = {"what": sheet.domain.what, "name": called[0], "label": other.called[0]}
            wordings = (*(general if other.labels else ()), *other.ask)
            draft.ask_absent(wordings, *other.called, **fill)


def write_plain(draws: Draws, format_name: str | None = None) -> Draft:
    """Write keys of unknown meaning with values of any kind."""
    keys, values, title, kind = _draw_strings(draws)
    written = _write_list(draws, title, keys, values, format_name)
    draft = written.draft
    folded = [value.casefold() for value in values]
    for row, (key, value, lines) in enumerate(zip(keys, values, written.lines, strict=True)):
        name = _choose_key(draws, key, written.keys[row]).strip('"')
        fill = {"name": name, "value": value}
        draft.ask("plain.ask", value, lines, **fill)
        draft.ask("plain.ask", value, lines, **fill)
        if len(value) > 1 and is_unique(folded, row) and value not in keys:
            draft.ask("plain.back", written.find_name(row, key), lines, **fill)
    for name in draws.other_names(kind, keys):
        draft.ask_absent("plain.ask", name, name=name)
    _ask_ends(written, "entry", keys)
    return draft


def _draw_strings(draws: Draws) -> tuple[list[str], list[str], str, str]:
    """Draw different keys, their values, a title and the kind of the keys."""
    number = draws.between(1, 9) if draws.chance(0.7) else draws.between(6, 22)
    if draws.chance(0.6):
        plain = draws.pick(load_data("forms")["plain"])
        kind, kinds, title = plain["keys"], plain["values"], plain["title"]
        mixed = draws.chance(0.5)
    else:
        ingredients = shared_ingredients().kinds
        kind, kinds = draws.pick(ingredients), draws.some(ingredients, 3)
        title, mixed = draws.word().capitalize(), draws.chance(0.3)
    keys = [key[:40].strip() for key in draws.different(kind, number)]
    if not mixed:
        kinds = [draws.pick(kinds)]
    return keys, [draws.value(draws.pick(kinds)) for _ in keys], title, kind


def _write_list(
    draws: Draws, title: str, keys: Sequence[str], values: Sequence[str], name: str | None
) -> WrittenList:
    """Write keys and values in a format that can have such keys, drawn unless given."""
    formats = load_list_formats()
    if name is None:
        fitting = all(spellings.IDENTIFIER.fullmatch(key) for key in keys)
        fitting &= len({spellings.snake_case(key) for key in keys}) == len(keys)
        tall = len(keys) > MOST_ENTRIES
        names = [
            name
            for name, form in formats.items()
            if (fitting or not form.identifiers) and not (tall and "\n" in form.line)
        ]
        name = draws.pick(names)
    return formats[name](title, keys, values, draws)


def _choose_key(draws: Draws, name: str, key: str) -> str:
    """Choose the key as the list has it, or the name that it was made of."""
    return key if draws.chance(0.5) else name


def _ask_ends(written: WrittenList, what: str, names: Sequence[str]) -> None:
    """Ask for the first and the last entry, and for their number where they are numbered."""
    draft = written.draft
    if len(names) > 2:
        last = len(names) - 1
        draft.ask("cell.first", written.find_name(0, names[0]), draft.whole, what=what)
        draft.ask("cell.last", written.find_name(last, names[last]), draft.whole, what=what)
    if written.numbered and 3 <= len(names) <= 9:
        draft.ask("cell.count", str(len(names)), draft.whole)
