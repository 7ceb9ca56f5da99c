"""Phases of recorded runs: their questions, their summaries, and what is kept of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.phases.command import count_bytes
from benchmarks.phases.summaries import TfIdf, keep_lead
from benchmarks.phases.transcripts import WorkPhase, ask_phases, ask_records, read_phases
from benchmarks.rows import ClosedPhases
from gradmem_core.errors import DataError
from tests.benchmarks.commands import measure, measure_rows

TEXT = "the fox is quick\nthe bridge\nthe fox is old\n\nthe tower"


def look_up(number: int) -> list[dict[str, Any]]:
    """Make a phase in which a bridge is looked up."""
    call = {"name": "get_bridge", "arguments": json.dumps({"bridge_id": f"b{number}"})}
    bridge = {"id": f"b{number}", "miles": number, "near": {"place_name": "fox"}, "ways": [1]}
    return [
        {"role": "user", "content": f"How far is bridge {number}?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": call}]},
        {"role": "tool", "tool_call_id": "1", "content": json.dumps(bridge)},
        {"role": "assistant", "content": f"It is {number} miles away."},
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: one looks up two bridges, the other one of them again."""
    thanks = {"role": "user", "content": "Thanks."}
    system = {"role": "system", "content": "Be quick."}
    file = tmp_path_factory.mktemp("runs") / "runs.json"
    file.write_text(
        json.dumps([{"traj": [system, *look_up(1), *look_up(2), thanks]}, {"traj": look_up(2)}])
    )
    return file


@pytest.fixture(scope="module")
def phases(runs: Path) -> list[WorkPhase]:
    return read_phases(runs)


def test_a_phase_is_what_follows_a_message_and_looks_something_new_up(
    phases: list[WorkPhase],
) -> None:
    assert [phase.messages for phase in phases] == [look_up(1), look_up(2)]
    assert [[fact.line for fact in phase.facts] for phase in phases] == [
        ["miles: 1", "near place_name: fox"],
        ["miles: 2", "near place_name: fox"],
    ]


def test_questions_name_what_they_are_about(phases: list[WorkPhase]) -> None:
    first, second = ask_phases(phases, questions=2, seed=1)
    asked = {question.query: question.answer for question in first.asked.present}
    assert asked == {
        "What is the miles of bridge b1?": "1",
        "What is the near place name of bridge b1?": "fox",
    }
    assert [question.query[-3:] for question in (*first.asked.absent, *second.asked.absent)] == [
        "b2?",
        "b1?",
    ]
    for phase in (first, second):
        assert {fact.line for fact in phase.facts} <= set(phase.text.splitlines())


def test_the_same_seed_draws_the_same_questions(phases: list[WorkPhase]) -> None:
    once = [ask_phases(phases, questions=1, seed=seed) for seed in range(8)]
    assert once == [ask_phases(phases, questions=1, seed=seed) for seed in range(8)]
    assert len({asked[0].facts for asked in once}) == 2


def test_records_are_asked_by_key(phases: list[WorkPhase]) -> None:
    asked = ask_records(phases, questions=2, seed=1)[0]
    assert asked.text == "miles: 1\nnear place_name: fox"
    assert {question.query for question in asked.asked.present} == {"miles", "near place_name"}
    assert asked.foreign == ()


@pytest.mark.parametrize("content", [None, "{", "{}", "[]", '[{"task": 1}]', '[{"traj": []}]'])
def test_a_file_without_lookups_is_refused(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "runs.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=str(file)):
        read_phases(file)


@pytest.mark.parametrize(
    ("most", "lead"), [(0, ""), (26, "the fox is quick"), (27, "the fox is quick\nthe bridge")]
)
def test_the_lead_has_the_first_lines_that_fit(most: int, lead: str) -> None:
    assert keep_lead(TEXT, count_bytes, most) == lead


def test_the_best_lines_have_words_that_recur_but_not_in_every_line() -> None:
    ranking = TfIdf([TEXT])
    assert ranking.keep_best(TEXT, count_bytes, 20) == "the fox is quick"
    assert ranking.keep_best(TEXT, count_bytes, 31) == "the fox is quick\nthe fox is old"
    assert ranking.keep_best(TEXT, count_bytes, 5) == ""
    for most in range(count_bytes(TEXT)):
        kept = ranking.keep_best(TEXT, count_bytes, most)
        assert count_bytes(kept) <= most
        assert [line for line in TEXT.splitlines() if line in kept.splitlines()] == (
            kept.splitlines()
        )


@pytest.fixture(scope="module")
def rows(runs: Path, folder: Path) -> dict[str, ClosedPhases]:
    options = ("--data", runs, "--bank", folder / "bank", "--steps", 1)
    found = measure_rows(ClosedPhases, "phases", folder / "text", *options)
    return {row.kept: row for row in found}


def test_what_is_kept_is_measured(rows: dict[str, ClosedPhases]) -> None:
    whole, memory, nothing = rows["the whole text"], rows["its memory"], rows["nothing"]
    assert len(rows) == 7
    assert (whole.stated, memory.stated, nothing.stated) == (1.0, None, 0.0)
    assert whole.kept_tokens == whole.tokens == memory.tokens
    assert (nothing.kept_tokens, nothing.stored_bytes) == (0, 0)
    assert memory.question_tokens > 20
    assert memory.kept_tokens > 2 * 20
    for row in rows.values():
        assert (row.phases, row.questions) == (2, 4)
        assert row.exact_match is not None


def test_a_summary_keeps_within_its_bound(rows: dict[str, ClosedPhases]) -> None:
    halves = [row for kept, row in rows.items() if kept.endswith("half of the tokens")]
    assert len(halves) == 2
    for row in halves:
        assert row.tokens / 4 < row.kept_tokens <= row.tokens / 2


def test_records_are_read_from_memories_alone(runs: Path, tmp_path: Path) -> None:
    options = ("--data", runs, "--bank", tmp_path, "--steps", 1, "--questions", 1)
    result = measure("phases", "records", *options)
    read = {row["kept"]: row["exact_match"] for row in result.rows}
    assert read.pop("its memory") is not None
    assert set(read.values()) == {None}
    assert "definitions" in result.notes[0]
