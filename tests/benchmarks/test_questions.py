"""Questions in words, asked of a checkpoint as training leaves it: without a calibration."""

import json
from pathlib import Path

import pytest

from benchmarks.accuracy.paragraphs import find_window, half_of, join_paragraphs
from benchmarks.accuracy.replies import AskedText
from benchmarks.rows import Questions
from gradmem_core.tokenizer import Tokenizer
from tests.benchmarks.commands import invoke, measure_rows
from training.tasks import Question
from training.tasks.squad import SquadQuestion


def ask(folder: Path, section: str, *options: object) -> list[Questions]:
    """Measure a section with the tiny checkpoint."""
    common = (folder / "text", "--bank", folder / "bank")
    return measure_rows(Questions, section, *common, *options)


def count_paragraphs(folder: Path) -> int:
    contexts = (folder / "squad" / "valid.jsonl").read_text().splitlines()
    return sum(half_of(json.loads(line)["context"]) == "report" for line in contexts)


def test_sentences_are_asked_beside_baselines(folder: Path) -> None:
    rows = ask(folder, "sentences", "--data", folder / "squad", "--steps", "1,2")
    assert [(row.condition, row.write_steps) for row in rows] == [
        ("memory", 1),
        ("memory", 2),
        ("whole text", None),
        ("its first 3 tokens", None),
        ("its embeddings, mean-pooled to 3", None),
        ("nothing", None),
    ]
    assert {row.questions for row in rows} == {count_paragraphs(folder)}
    assert {row.data for row in rows} == {"squad/valid.jsonl, the half for report"}
    assert all(row.forced is not None for row in rows)


def test_memories_are_written_once(folder: Path) -> None:
    options = ("--data", folder / "squad", "--steps", "3", "--count", 2)

    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (folder / "bank").rglob("*.safetensors")}

    rows = ask(folder, "sentences", *options)
    written = times()
    assert ask(folder, "sentences", *options) == rows
    assert times() == written


def test_windows_have_a_section_by_size(folder: Path) -> None:
    rows = ask(folder, "windows", "--data", folder / "squad", "--tokens", 60)
    assert {row.section for row in rows} == {"windows-60"}
    assert [row.condition for row in rows[:2]] == ["memory", "whole text"]
    assert {row.questions for row in rows} == {count_paragraphs(folder)}


def test_a_window_grows_on_both_sides_in_turn() -> None:
    tokenizer = Tokenizer.from_characters("".join(map(chr, range(32, 127))))
    text = "One. Two. Three is 3. Four. Five."
    asked = SquadQuestion(context=text, question="?", answers=["3"])
    grown = {
        most: find_window(asked, tokenizer=tokenizer, most=most)
        for most in (12, 19, 20, 24, 30, 33)
    }
    assert grown == {
        12: "Three is 3.",
        19: "Three is 3. Four.",
        20: "Three is 3. Four.",
        24: "Two. Three is 3. Four.",
        30: "Two. Three is 3. Four. Five.",
        33: text,
    }


def test_paragraphs_are_stored_in_every_dtype(folder: Path) -> None:
    options = ("--data", folder / "squad", "--page-tokens", 16)
    alone = ask(folder, "paragraphs", *options)
    assert [row.blob for row in alone] == ["float32", "float16", "int8"]
    assert all(row.absent == row.texts == count_paragraphs(folder) for row in alone)
    (pairs,) = ask(folder, "paragraphs", *options, "--together", 2)
    assert pairs.texts == count_paragraphs(folder) // 2
    assert pairs.pages > alone[0].pages > 1


def test_documents_are_asked_questions_of_the_next() -> None:
    texts = [AskedText(str(n), (Question(f"q{n}", "", ""), Question("", "", ""))) for n in range(5)]
    first, second = join_paragraphs(texts, 2)
    assert [text.text for text in (*first, *second)] == ["0", "1", "2", "3"]
    queries = [
        [question.query for text in of for question in text.absent] for of in (first, second)
    ]
    assert queries == [["q2", "q3"], ["q0", "q1"]]


def test_lists_are_asked_for_keys_alone_and_in_words(folder: Path) -> None:
    generated = ("--shapes", "2x4+4,3x6+4", "--pages", 1, "--contexts", 2, "--keys", 2)
    rows = ask(folder, "lists", "--lists", folder / "lists", *generated, "--steps", 1)
    assert [(row.condition, row.texts, row.questions, row.absent) for row in rows] == [
        ("shape 2x4+4, key alone", 2, 4, 4),
        ("shape 2x4+4, in words", 2, 4, 4),
        ("shape 3x6+4, key alone", 2, 4, 4),
        ("shape 3x6+4, in words", 2, 4, 4),
        ("pages 1, key alone", 2, 4, 4),
        ("pages 1, in words", 2, 4, 4),
        ("list doors, key alone", 1, 2, 2),
        ("list doors, in words", 1, 2, 2),
    ]
    assert {row.data for row in rows} == {"lists"}


def test_texts_as_people_paste_them(folder: Path) -> None:
    rows = ask(folder, "formats", "--texts", folder / "texts", "--steps", 1)
    assert [(row.condition, row.texts, row.questions, row.absent) for row in rows] == [
        ("first", 1, 1, 1),
        ("second", 1, 1, 1),
        ("all", 2, 2, 2),
    ]
    first, _, both = rows
    assert first.pages == both.pages > 1  # the same text twice
    assert first.calibration_error == pytest.approx(both.calibration_error)
    assert (both.page_tokens, both.blob) == (120, "int8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["sentences", "--data", "nowhere"], "valid.jsonl"),
        (["windows", "--data", "squad", "--tokens", "3"], "none of the texts has at most 3 tokens"),
        (["paragraphs", "--data", "squad", "--together", "40"], "fewer than 40 paragraphs"),
        (["formats", "--texts", "squad"], "has no texts"),
    ],
)
def test_what_cannot_be_measured_is_refused(folder: Path, options: list[str], message: str) -> None:
    section, option, name, *others = options
    common = (folder / "text", "--bank", folder / "bank")
    refused = invoke(section, *common, option, folder / name, *others)
    assert refused.exit_code == 2
    assert message in refused.stderr
