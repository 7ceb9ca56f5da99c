"""Figures that a checkpoint for all texts is to reach, beside those that were measured."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.text_results import Cell, TextResult

MOST_STEPS = 8
"Write steps (K) that count at most."
MEMORY = "memory"
WHOLE_TEXT = "whole text"

Figure = Callable[[Sequence[Cell]], float | None]
"A share of one section's cells; None where it was not measured."


@dataclass(frozen=True)
class Goal:
    """A figure to reach."""

    name: str
    section: str
    "The section that measures it."
    figure: Figure
    reach: float
    "Least value, or most where `falling`, from 0 to 1."
    known: float | None = None
    "The best that was published."
    falling: bool = False
    "Less is better."


@dataclass(frozen=True)
class Standing:
    """A goal with what was measured."""

    goal: Goal
    found: float | None

    @property
    def reached(self) -> bool:
        """Say whether the goal is reached."""
        if self.found is None:
            return False
        return self.found <= self.goal.reach if self.goal.falling else self.found >= self.goal.reach


def standings(results: Iterable[TextResult], checkpoint: str) -> Iterator[Standing]:
    """Return every goal with what was measured of a checkpoint."""
    sections = {one.section: one.cells for one in results if one.checkpoint == checkpoint}
    for goal in GOALS:
        yield Standing(goal, goal.figure(sections.get(goal.section, [])))


def best(field: str) -> Figure:
    """Take the memory's best value over the numbers of write steps."""

    def figure(cells: Sequence[Cell]) -> float | None:
        return max((getattr(cell, field) for cell in _memories(cells)), default=None)

    return figure


def share_of_the_text(cells: Sequence[Cell]) -> float | None:
    """Divide the memory's best exact match by the same model's over the whole text."""
    whole = [cell.exact_match for cell in cells if cell.condition == WHOLE_TEXT]
    found = best("exact_match")(cells)
    return None if found is None or not whole else found / whole[0]


def served(field: str) -> Figure:
    """Take the value of memories as the service stores them."""

    def figure(cells: Sequence[Cell]) -> float | None:
        return next((getattr(cell, field) for cell in cells if cell.dtype == "int8"), None)

    return figure


def mean_of(condition: str) -> Figure:
    """Average the exact match under a condition: the last part of its name, behind a comma."""

    def figure(cells: Sequence[Cell]) -> float | None:
        parts = [(cell.condition.rpartition(", ")[2], cell.exact_match) for cell in cells]
        found = [share for name, share in parts if name == condition]
        return fmean(found) if found else None

    return figure


def _memories(cells: Iterable[Cell]) -> list[Cell]:
    return [
        cell
        for cell in cells
        if cell.condition == MEMORY and cell.write_steps and cell.write_steps <= MOST_STEPS
    ]


GOALS = (
    Goal("Short SQuAD, exact match", "sentences", best("exact_match"), 0.56),
    Goal("Short SQuAD, forced", "sentences", best("forced"), 0.55, known=0.549),
    Goal(
        "Short SQuAD, share of the same model's whole-text figure",
        "sentences",
        share_of_the_text,
        0.93,
        known=0.86,
    ),
    Goal("windows of 96 tokens, exact match", "windows-96", best("exact_match"), 0.5),
    Goal(
        "whole paragraphs through pages, exact match", "paragraphs-1", served("exact_match"), 0.45
    ),
    Goal("lists, keys asked plainly", "lists", mean_of("key alone"), 0.97),
    Goal("lists, keys asked in words", "lists", mean_of("in words"), 0.85),
    Goal(
        "tables, CSV, JSON, YAML, transcripts, code (100 questions)",
        "formats",
        mean_of("all"),
        0.85,
    ),
    Goal("not answered by the text, refused", "paragraphs-1", served("absent_refused"), 0.95),
    Goal(
        "answered by the text, refused wrongly",
        "paragraphs-1",
        served("refused"),
        0.04,
        falling=True,
    ),
)
"K up to 8, 32 vectors a page, one checkpoint."
