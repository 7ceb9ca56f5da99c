"""Fill the tables of Markdown files from the result files.

A table stands between `<!-- table: CHECKPOINT SECTION -->` and `<!-- end -->`; without a section
it is those of all sections, and the section `goals` is what is to be reached. Where nothing was
measured there is nothing between the two.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from pydantic import Field, TypeAdapter

from benchmarks.report.goals import standings
from benchmarks.speed.reading import SpeedResult
from benchmarks.text_results import RESULTS, Cell, TextResult

PLACE = re.compile(
    r"(?P<start><!-- table: (?P<checkpoint>\S+)(?: (?P<section>\S+))? -->\n)"
    r".*?(?P<end><!-- end -->\n)",
    re.DOTALL,
)
GOALS = "goals"
Column = Callable[[Cell], str]
Result: TypeAlias = TextResult | SpeedResult
RESULT: TypeAdapter[Result] = TypeAdapter(Annotated[Result, Field(discriminator="kind")])


def main(files: Annotated[list[Path], typer.Argument(help="Markdown files to change.")]) -> None:
    """Write the tables anew."""
    results = load_all()
    for file in files:
        file.write_text(filled(file.read_text(encoding="utf-8"), results), encoding="utf-8")


def load_all(folder: Path = RESULTS) -> list[Result]:
    """Read the result files, in the order of their names."""
    return [RESULT.validate_json(path.read_bytes()) for path in sorted(folder.glob("*.json"))]


def filled(page: str, results: Sequence[Result]) -> str:
    """Put the tables of results where a page has a place for them."""

    def fill(place: re.Match[str]) -> str:
        if place["section"] == GOALS:
            return place["start"] + goals_table(results, place["checkpoint"]) + place["end"]
        tables = [
            table(one)
            for one in results
            if one.checkpoint == place["checkpoint"] and place["section"] in (None, section_of(one))
        ]
        return place["start"] + "\n\n".join(tables) + "\n" * bool(tables) + place["end"]

    return PLACE.sub(fill, page)


def section_of(result: Result) -> str:
    """What a result is called in a place for its table."""
    return result.section if isinstance(result, TextResult) else "speed"


def table(result: Result) -> str:
    """Render a result with how it was made; columns without an entry are left out."""
    if isinstance(result, TextResult):
        about = f"{result.section}, {result.data}"
        rows = {name: [column(cell) for cell in result.cells] for name, column in COLUMNS.items()}
    else:
        about = f"a page of {result.page_tokens} tokens, K = {result.write_steps}"
        rows = {
            "work": [timing.work for timing in result.timings],
            "ms": [f"{1000 * timing.seconds:,.0f}" for timing in result.timings],
            "times that of an answer from the KV cache": [
                f"{timing.ratio:.2f}" for timing in result.timings
            ],
        }
    machine = f"{result.machine.cores} cores of {result.machine.cpu}"
    return f"{about}; {machine}; `{result.command}`\n\n{_markdown(rows)}"


def goals_table(results: Sequence[Result], checkpoint: str) -> str:
    """Render what a checkpoint has reached of its goals; nothing where nothing was measured."""
    texts = [result for result in results if isinstance(result, TextResult)]
    rows = list(standings(texts, checkpoint))
    if all(row.found is None for row in rows):
        return ""
    columns = {
        "figure": [row.goal.name for row in rows],
        "measured": [_percent(row.found) or "not measured" for row in rows],
        "to reach": [
            f"{'≤' if row.goal.falling else '≥'} {_percent(row.goal.reach)}" for row in rows
        ],
        "reached": ["yes" if row.reached else "no" for row in rows],
        "best published": [_percent(row.goal.known) for row in rows],
    }
    return _markdown(columns) + "\n"


def _markdown(columns: dict[str, list[str]]) -> str:
    columns = {name: entries for name, entries in columns.items() if any(entries)}
    lines = [list(columns), ["---"] * len(columns), *zip(*columns.values(), strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _number(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


COLUMNS: dict[str, Column] = {
    "READ has": lambda cell: cell.condition,
    "K": lambda cell: _number(cell.write_steps),
    "tokens a page": lambda cell: _number(cell.page_tokens),
    "stored as": lambda cell: cell.dtype or "",
    "bytes a page": lambda cell: _number(cell.bytes_per_page),
    "texts": lambda cell: _number(cell.texts),
    "pages a text": lambda cell: "" if cell.pages == 1 else f"{cell.pages:.1f}",
    "questions": lambda cell: _number(cell.questions),
    "exact match": lambda cell: _percent(cell.exact_match),
    "F1": lambda cell: _percent(cell.f1),
    "forced": lambda cell: _percent(cell.forced),
    "refused": lambda cell: _percent(cell.refused) if cell.absent else "",
    "others asked": lambda cell: _number(cell.absent) if cell.absent else "",
    "others refused": lambda cell: _percent(cell.absent_refused),
    "calibration error": lambda cell: _percent(cell.calibration_error) if cell.absent else "",
}

if __name__ == "__main__":
    typer.run(main)
