"""Tables in Markdown files are those of the result files."""

from pathlib import Path

import pytest

from benchmarks.report.goals import GOALS, Standing
from benchmarks.report.places import PLACE, filled, load_all
from benchmarks.text_results import TextResult
from gradmem_core.checkpoints.manifest import find_checkpoint, read_manifest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "docs/RESULTS.md", "gradmem_core/bundled/prose/README.md"]
PAGE = "Before.\n\n<!-- table: prose sentences -->\nold\n<!-- end -->\n\nAfter.\n"
MADE_UP = {
    "command": "text sentences",
    "commit": "unknown",
    "machine": {"cpu": "a CPU", "cores": 2, "threads": 2, "torch": "2"},
    "seed": 0,
    "seconds": 1.0,
    "date": "2026-11-26T00:00:00Z",
    "section": "sentences",
    "checkpoint": "prose",
    "fingerprint": "0" * 64,
    "data": "made up",
    "cells": [
        {"condition": "memory", "write_steps": 5, "texts": 3, "questions": 4}
        | {"exact_match": 0.25, "f1": 0.5},
        {"condition": "nothing", "texts": 3, "questions": 1234, "exact_match": 0.0, "f1": 0.0625},
    ],
}


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_those_of_the_result_files(page: str) -> None:
    found = (ROOT / page).read_text(encoding="utf-8")
    assert PLACE.search(found)
    assert filled(found, load_all()) == found


def test_result_files_are_of_the_checkpoint_that_is_bundled() -> None:
    for result in load_all():
        manifest = read_manifest(find_checkpoint(result.checkpoint))
        assert result.fingerprint == manifest.fingerprint


def test_a_place_is_filled_with_its_table_alone() -> None:
    result = TextResult.model_validate(MADE_UP, strict=False)
    assert filled(PAGE, [result]) == (
        "Before.\n\n<!-- table: prose sentences -->\n"
        "sentences, made up; 2 cores of a CPU; `text sentences`\n\n"
        "| READ has | K | texts | questions | exact match | F1 |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| memory | 5 | 3 | 4 | 25.0 | 50.0 |\n"
        "| nothing |  | 3 | 1,234 | 0.0 | 6.2 |\n"
        "<!-- end -->\n\nAfter.\n"
    )
    nothing = PAGE.replace("old\n", "")
    for other in ({"section": "lists"}, {"checkpoint": "records"}):
        assert filled(PAGE, [result.model_copy(update=other)]) == nothing


def test_goals_stand_beside_what_was_measured() -> None:
    result = TextResult.model_validate(MADE_UP, strict=False)
    whole = result.cells[0].model_copy(update={"condition": "whole text", "exact_match": 0.5})
    many = result.cells[0].model_copy(update={"write_steps": 9, "exact_match": 0.9})
    found = result.model_copy(update={"cells": [*result.cells, whole, many]})
    page = filled("<!-- table: prose goals -->\n<!-- end -->\n", [found])
    assert "| Short SQuAD, exact match | 25.0 | ≥ 56.0 | no |  |\n" in page
    assert "| Short SQuAD, share of the same model's whole-text figure | 50.0 |" in page
    assert "| windows of 96 tokens, exact match | not measured | ≥ 50.0 | no |  |\n" in page
    assert filled(page, []) == "<!-- table: prose goals -->\n<!-- end -->\n"


def test_a_falling_goal_is_reached_from_above() -> None:
    goal = next(goal for goal in GOALS if goal.falling)
    assert Standing(goal, goal.reach).reached
    assert not Standing(goal, goal.reach + 0.01).reached
