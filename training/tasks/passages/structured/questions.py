"""Wordings of questions about the cells of a sheet."""

from dataclasses import dataclass

from training.tasks.passages.structured.draws import Draws
from training.tasks.passages.structured.sheet import Field, Sheet, is_unique
from training.tasks.passages.structured.wordings import KEYWORDS, find_wordings


@dataclass(frozen=True)
class CellQuestions:
    """Draws wordings for the cells of a sheet, by record (row) and field (column)."""

    sheet: Sheet
    heads: tuple[str, ...]
    "The fields as they are written."
    draws: Draws

    def label(self, column: int) -> str:
        """Draw a name that people give a field."""
        field, head = self.sheet.fields[column], self.sheet.heads[column]
        chance = self.draws.dice.random()
        if field.labels and (head not in field.labels or chance > 0.75):
            return self.draws.pick(field.labels)
        return self.heads[column] if chance < 0.2 else head

    def fill(self, row: int, column: int) -> dict[str, str]:
        """Return the texts for the braces of wordings about a cell."""
        return {
            "name": self.sheet.names[row],
            "label": self.label(column),
            "value": self.sheet.rows[row][column] or "",
            "what": self.sheet.domain.what,
        }

    def identifies(self, row: int, column: int) -> bool:
        """Return True where no other record has the value, and no other field of its kind."""
        value = self.sheet.rows[row][column]
        if value is None or not is_unique([values[column] for values in self.sheet.rows], row):
            return False
        everywhere = [text.casefold() for values in self.sheet.rows for text in values if text]
        return everywhere.count(value.casefold()) == 1

    def ask(self, column: int) -> tuple[str, ...]:
        """Draw the wordings that ask for a field: general, or those that fit this field alone."""
        field = self.sheet.fields[column]
        special = (*field.ask, *field.ask, *self._find_by_sort(field, "ask"))
        return special if special and self.draws.chance(0.5) else general_wordings(field)

    def ask_back(self, column: int) -> tuple[str, ...]:
        """Draw the wordings that ask for the record by a field."""
        field = self.sheet.fields[column]
        if not field.labels:
            return field.back
        special = (*field.back, *field.back, *self._find_by_sort(field, "back"))
        if special and self.draws.chance(0.5):
            return special
        return find_wordings("cell.back_who" if self.sheet.domain.people else "cell.back")

    def _find_by_sort(self, field: Field, group: str) -> tuple[str, ...]:
        """Return the wordings of a field's sort, which would be ambiguous with two such fields."""
        alone = sum(other.sort == field.sort for other in self.sheet.fields) == 1
        return find_wordings(f"{field.sort}.{group}") if field.sort and alone else ()


def general_wordings(field: Field) -> tuple[str, ...]:
    """Return the wordings for any field; only keywords where it has no noun."""
    wordings = find_wordings("cell.ask")
    return wordings if field.labels else tuple(w for w in wordings if w.startswith(KEYWORDS))
