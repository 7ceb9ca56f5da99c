"""Documents of records: tables, lists of a single field, cards of one record, bare keys."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from training.tasks.passages.structured import formats
from training.tasks.passages.structured.draws import Draws, texts
from training.tasks.passages.structured.lists import LISTS, Listed
from training.tasks.passages.structured.page import Page
from training.tasks.passages.structured.sheet import (
    Domain,
    Field,
    Sheet,
    domains,
    draw_sheet,
    unique,
)
from training.tasks.passages.structured.tables import TABLES, TALL, Layout
from training.tasks.passages.structured.wordings import KEYWORDS, wordings

MOST_LINES = 25
GAPPED_SHARE, GAPS = 0.35, 0.2
"Share of tables whose records lack fields, and the share of their fields that are lacking."
MOST_RECORDS, MOST_COLUMNS = 12, 6
PLAIN_KINDS = (
    ("setting", ("setting_value",), "Settings"),
    ("setting", ("flag", "small", "decimal", "duration"), "Preferences"),
    ("setting", ("path", "url", "port", "ip", "secret"), "Configuration"),
    ("secret_name", ("pin",), "Codes"),
    ("secret_name", ("pin", "code", "secret", "short_text"), "Keep safe"),
    ("thing_word", ("code", "count", "date", "person"), "Notes"),
    ("made", ("made", "code", "hexid", "person"), "Words"),
    ("person", ("made", "code", "locker", "seat", "color"), "Names"),
    ("code", ("thing_word", "person", "place", "made"), "Codes"),
    ("service", ("ip", "port", "version", "url"), "Services"),
    ("label_word", ("reading", "pin", "person", "status"), "Status"),
    ("hexid", ("hexid", "commit", "uuid"), "Hashes"),
    ("clock", ("topic", "person", "task"), "Today"),
    ("term", ("code", "year", "short_text"), "Terms"),
    ("table_name", ("count", "storage", "iso_date"), "Tables"),
)
"Kinds of bare keys and of their values, and a title."


def table(draws: Draws, format_name: str | None = None, domain: Domain | None = None) -> Page:
    """Write records with several fields in a format, drawn unless given."""
    name = format_name or draws.pick(list(TABLES))
    columns = draws.between(2, MOST_COLUMNS)
    most = MOST_RECORDS
    if name in TALL:
        columns = min(columns, 5)
        most = max(2, (MOST_LINES - 2) // (columns + 3))
    gaps = GAPS if draws.chance(GAPPED_SHARE) else 0.0
    sheet = draw_sheet(
        draws,
        domain or draws.pick(list(domains().values())),
        records=draws.between(2, most),
        columns=columns,
        gaps=gaps,
    )
    return ask_table(sheet, TABLES[name](sheet, draws), draws)


def ask_table(sheet: Sheet, layout: Layout, draws: Draws) -> Page:
    """Ask about the cells of a written sheet."""
    asking = Asking(sheet, tuple(layout.heads), draws)
    page = layout.page
    for (row, column), (first, last) in layout.cells.items():
        value = sheet.rows[row][column]
        if value is None:
            page.lack(asking.plainly(column), **asking.fill(row, column))
            continue
        page.ask(asking.cell(layout, column), value, (first, last), **asking.fill(row, column))
        _ask_back(layout, asking, row, column)
    for row, column in _lacking(sheet, layout):
        page.lack(asking.plainly(column), **asking.fill(row, column))
    _ask_ends(page, sheet)
    _lack_others(page, asking)
    return page


def _lacking(sheet: Sheet, layout: Layout) -> Iterator[tuple[int, int]]:
    """Find the fields that a format leaves out where a record lacks them."""
    for row, values in enumerate(sheet.rows):
        for column, value in enumerate(values):
            if value is None and (row, column) not in layout.cells:
                yield row, column


def _ask_back(layout: Layout, asking: "Asking", row: int, column: int) -> None:
    """Ask for the record, and for another of its fields, by a value that only it has."""
    sheet, page = asking.sheet, layout.page
    lines = layout.cells[row, column]
    if not asking.tells(row, column):
        return
    fill = asking.fill(row, column)
    page.ask(asking.back(column), sheet.names[row], lines, **fill)
    others = [c for c in range(len(sheet.fields)) if c != column and sheet.rows[row][c] is not None]
    if others and asking.draws.chance(0.2):
        other = asking.draws.pick(others)
        answer = sheet.rows[row][other]
        assert answer is not None
        places = (*lines, *layout.cells[row, other])
        page.ask(
            "cell.across", answer, (min(places), max(places)), **fill, other=asking.label(other)
        )


def _ask_ends(page: Page, sheet: Sheet) -> None:
    if len(sheet.names) > 2:
        page.ask("cell.first", sheet.names[0], page.whole, what=sheet.domain.what)
        page.ask("cell.last", sheet.names[-1], page.whole, what=sheet.domain.what)


def _lack_others(page: Page, asking: "Asking") -> None:
    """Note names and fields like those that are there."""
    sheet, draws = asking.sheet, asking.draws
    known = [formats.snake(label) for field in sheet.fields for label in field.called]
    sorts = {field.sort for field in sheet.fields}
    for other in sheet.domain.fields:
        strange = not any(formats.snake(label) in known for label in other.called)
        if other not in sheet.fields and strange and (not other.sort or other.sort not in sorts):
            row = draws.between(0, len(sheet.names) - 1)
            fill = {"name": sheet.names[row], "what": sheet.domain.what}
            fill["label"] = draws.pick(other.labels or other.heads)
            asked = (*_general(other), *other.ask, *other.ask)
            page.lack(asked, *other.called, **fill)
    for name in other_names(draws, sheet.domain.names, sheet.names):
        column = draws.between(0, len(sheet.fields) - 1)
        fill = asking.fill(0, column) | {"name": name}
        page.lack(asking.plainly(column), name, **fill)
    for row in range(min(2, len(sheet.rows))):
        column = draws.between(0, len(sheet.fields) - 1)
        value = sheet.rows[row][column]
        near = draws.near(value) if value else ""
        if near != (value or "") and any(sign.isdigit() for sign in near):
            page.lack(asking.back(column), near, **asking.fill(row, column) | {"value": near})


def other_names(draws: Draws, kind: str, there: Sequence[str]) -> list[str]:
    """Draw names that are not there: some off by a little, some of the same kind."""
    near = [draws.near(name) for name in draws.some(there, 2)]
    drawn = draws.different(kind, 2)
    known = [set(name.casefold().split()) for name in there]
    return [
        name
        for name in (*near, *drawn)
        if not any(
            words <= set(name.casefold().split()) or set(name.casefold().split()) <= words
            for words in known
        )
    ]


@dataclass(frozen=True)
class Asking:
    """Wordings for the cells of a sheet."""

    sheet: Sheet
    shown: tuple[str, ...]
    "The fields as they are written."
    draws: Draws

    def label(self, column: int) -> str:
        """Draw what people call a field."""
        field, head = self.sheet.fields[column], self.sheet.heads[column]
        way = self.draws.dice.random()
        if field.labels and (head not in field.labels or way > 0.75):
            return self.draws.pick(field.labels)
        return self.shown[column] if way < 0.2 else head

    def fill(self, row: int, column: int) -> dict[str, str]:
        """Return what stands in the braces of wordings about a cell."""
        return {
            "name": self.sheet.names[row],
            "label": self.label(column),
            "value": self.sheet.rows[row][column] or "",
            "what": self.sheet.domain.what,
        }

    def tells(self, row: int, column: int) -> bool:
        """Return True where no other record has the value, and no other field of its kind."""
        value = self.sheet.rows[row][column]
        if value is None or not unique([values[column] for values in self.sheet.rows], row):
            return False
        everywhere = [text.casefold() for values in self.sheet.rows for text in values if text]
        return everywhere.count(value.casefold()) == 1

    def cell(self, layout: Layout, column: int) -> tuple[str, ...]:
        """Return the wordings for a field of a record."""
        if layout.columns and self.draws.chance(0.08):
            return wordings("cell.table")
        if layout.nested and self.draws.chance(0.12):
            return wordings("cell.path")
        return self.plainly(column)

    def plainly(self, column: int) -> tuple[str, ...]:
        """Return general wordings, or those that fit the field alone."""
        field = self.sheet.fields[column]
        special = (*field.ask, *field.ask, *(self._of_sort(field, "ask")))
        return special if special and self.draws.chance(0.5) else _general(field)

    def back(self, column: int) -> tuple[str, ...]:
        """Return the wordings that ask for the record."""
        field = self.sheet.fields[column]
        if not field.labels:
            return field.back
        special = (*field.back, *field.back, *self._of_sort(field, "back"))
        if special and self.draws.chance(0.5):
            return special
        return wordings("cell.back_who" if self.sheet.domain.who else "cell.back")

    def _of_sort(self, field: Field, way: str) -> tuple[str, ...]:
        """Return the wordings of a sort, which would be ambiguous with two such fields."""
        alone = sum(other.sort == field.sort for other in self.sheet.fields) == 1
        return wordings(f"{field.sort}.{way}") if field.sort and alone else ()


def _general(field: Field) -> tuple[str, ...]:
    """Return the wordings for any field, only keywords where it has no noun."""
    asked = wordings("cell.ask")
    return asked if field.labels else tuple(text for text in asked if text.startswith(KEYWORDS))


def entries(draws: Draws, format_name: str | None = None, domain: Domain | None = None) -> Page:
    """Write a list of a single field: names with their values."""
    sheet = draw_sheet(
        draws,
        domain or draws.pick(list(domains().values())),
        records=draws.between(3, 20) if draws.chance(0.3) else draws.between(1, 9),
        columns=1,
    )
    values = [row[0] or "" for row in sheet.rows]
    title = draws.pick((sheet.title, formats.capital(sheet.heads[0])))
    listed = _listed(draws, title, sheet.names, values, format_name)
    asking = Asking(sheet, sheet.heads, draws)
    page = listed.page
    for row, (value, place) in enumerate(zip(values, listed.places, strict=True)):
        special = asking.plainly(0) if draws.chance(0.6) else wordings(_entry(sheet.fields[0]))
        fill = asking.fill(row, 0)
        fill["name"] = _key_asked(draws, sheet.names[row], listed.keys[row])
        page.ask(special, value, place, **fill)
        if asking.tells(row, 0):
            page.ask(asking.back(0), _written(listed, row, sheet.names[row]), place, **fill)
    for name in other_names(draws, sheet.domain.names, sheet.names):
        asked = asking.plainly(0) if draws.chance(0.5) else wordings(_entry(sheet.fields[0]))
        page.lack(asked, name, **asking.fill(0, 0) | {"name": name})
    _lack_fields(page, asking)
    _ask_list_ends(
        listed, sheet.domain.what, [_written(listed, i, n) for i, n in enumerate(sheet.names)]
    )
    return page


def _entry(field: Field) -> str:
    return "entry.ask" if field.labels else "plain.ask"


def _lack_fields(page: Page, asking: Asking) -> None:
    """Note fields that a list of one field does not have."""
    sheet, draws = asking.sheet, asking.draws
    for other in draws.some(sheet.domain.fields, 4):
        if other not in sheet.fields and (not other.sort or other.sort != sheet.fields[0].sort):
            fill = asking.fill(draws.between(0, len(sheet.names) - 1), 0)
            page.lack(other.ask, *other.called, **fill)


def _key_asked(draws: Draws, name: str, key: str) -> str:
    return key if draws.chance(0.5) else name


def _written(listed: Listed, row: int, name: str) -> str:
    """Return a name as the list has it."""
    written = "".join(listed.page.pieces)
    return name if name in written else listed.keys[row].strip('"')


def _listed(
    draws: Draws, title: str, keys: Sequence[str], values: Sequence[str], name: str | None
) -> Listed:
    """Write keys and values in a format that can have such keys."""
    if name is None:
        fitting = all(formats.IDENTIFIER.fullmatch(key) for key in keys)
        fitting &= len({formats.snake(key) for key in keys}) == len(keys)
        tall = len(keys) > MOST_LINES // 2 - 1
        names = [
            name
            for name, entry in LISTS.items()
            if (fitting or not entry.identifiers) and not (tall and "\n" in entry.line)
        ]
        name = draws.pick(names)
    return LISTS[name](title, keys, values, draws)


def _ask_list_ends(listed: Listed, what: str, names: Sequence[str]) -> None:
    page = listed.page
    if len(names) > 2:
        page.ask("cell.first", names[0], page.whole, what=what)
        page.ask("cell.last", names[-1], page.whole, what=what)
    if listed.numbered and 3 <= len(names) <= 9:
        page.ask("cell.count", str(len(names)), page.whole)


def card(draws: Draws, format_name: str | None = None, domain: Domain | None = None) -> Page:
    """Write all that is known of a single record."""
    domain = domain or draws.pick(list(domains().values()))
    columns = draws.between(2, len(domain.fields) - 2)
    sheet = draw_sheet(draws, domain, records=1, columns=columns)
    values = [value or "" for value in sheet.rows[0]]
    named = draws.chance(0.5)
    keys = [sheet.corner, *sheet.heads] if named else list(sheet.heads)
    title = sheet.domain.what if named else sheet.names[0]
    written = [sheet.names[0], *values] if named else values
    listed = _listed(draws, formats.capital(title), keys, written, format_name)
    _ask_card(listed, Asking(sheet, tuple(listed.keys[named:]), draws), named=named)
    return listed.page


def _ask_card(listed: Listed, asking: Asking, *, named: bool) -> None:
    page, sheet = listed.page, asking.sheet
    general = wordings("card.card_who" if sheet.domain.who else "card.ask")
    called = [f"the {sheet.domain.what}"]
    if not named and listed.page.lead and sheet.names[0] in listed.page.pieces[0]:
        called.append(sheet.names[0])
    for column, field in enumerate(sheet.fields):
        fill = asking.fill(0, column) | {"name": asking.draws.pick(called)}
        fill["label"] = fill["label"].strip('"')
        asked = general if field.labels and asking.draws.chance(0.6) else field.ask or general
        value = sheet.rows[0][column]
        assert value is not None
        page.ask(asked, value, listed.places[column + named], **fill)
    if named:
        place = listed.places[0]
        page.ask(general, sheet.names[0], place, what=sheet.domain.what, label=sheet.corner)
    known = {field.sort for field in sheet.fields}
    for other in sheet.domain.fields:
        if other not in sheet.fields and (not other.sort or other.sort not in known):
            fill = {"what": sheet.domain.what, "name": called[0], "label": other.called[0]}
            page.lack((*(general if other.labels else ()), *other.ask), *other.called, **fill)


def plain(draws: Draws, format_name: str | None = None) -> Page:
    """Write keys whose meaning nobody tells, with values of any kind."""
    keys, values, title, kind = _strings(draws)
    listed = _listed(draws, title, keys, values, format_name)
    page = listed.page
    folded = [value.casefold() for value in values]
    for row, (key, value, place) in enumerate(zip(keys, values, listed.places, strict=True)):
        fill = {"name": _key_asked(draws, key, listed.keys[row]).strip('"'), "value": value}
        page.ask("plain.ask", value, place, **fill)
        page.ask("plain.ask", value, place, **fill)
        if len(value) > 1 and unique(folded, row) and value not in keys:
            page.ask("plain.back", _written(listed, row, key), place, **fill)
    for name in other_names(draws, kind, keys):
        page.lack("plain.ask", name, name=name)
    if len(keys) > 2:
        _ask_list_ends(listed, "entry", [_written(listed, i, k) for i, k in enumerate(keys)])
    return page


def _strings(draws: Draws) -> tuple[list[str], list[str], str, str]:
    """Draw different keys, their values, a title and the kind of the keys."""
    number = draws.between(1, 9) if draws.chance(0.7) else draws.between(6, 22)
    kinds: Sequence[str]
    if draws.chance(0.6):
        kind, kinds, title = draws.pick(PLAIN_KINDS)
        mixed = draws.chance(0.5)
    else:
        ingredients = texts().kinds
        kind, kinds = draws.pick(ingredients), draws.some(ingredients, 3)
        title, mixed = draws.word().capitalize(), draws.chance(0.3)
    keys = [key[:40].strip() for key in draws.different(kind, number)]
    if not mixed:
        kinds = (draws.pick(kinds),)
    return keys, [draws.value(draws.pick(kinds)) for _ in keys], title, kind
