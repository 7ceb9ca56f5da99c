"""Every section measures a checkpoint as training leaves it: a folder, without a calibration."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.accuracy import text
from benchmarks.accuracy.questions import Text, half_of, windows
from benchmarks.text_results import TextResult, load
from gradmem_core.tokenizer import Tokenizer
from tests.pretrained import text_checkpoint
from training.tasks import Question

PLACES = ("river", "market", "bridge", "tower", "town", "fox")
QUESTIONS = """questions = [
  { ask = "Where is the bridge?", answers = ["near the market"] },
  { ask = "Who built it?", answers = [] },
]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint and small data of every kind."""
    folder = tmp_path_factory.mktemp("sections")
    text_checkpoint(folder, max_query_tokens=110)
    lines = []
    for number in range(12):
        place = PLACES[number % len(PLACES)]
        context = f"The {place} is {number} miles away. It is old. The fox is quick."
        answers = {"question": f"How far is the {place}?", "answers": [f"{number} miles"]}
        lines.append(json.dumps({"context": context, **answers}))
    (folder / "squad").mkdir()
    (folder / "squad" / "valid.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "lists").mkdir()
    (folder / "lists" / "doors.txt").write_text("front: 4711\nback: 12\nside: 9\n")
    (folder / "texts").mkdir()
    for name in ("first", "second"):
        (folder / "texts" / f"{name}.txt").write_text("bridge: near the market\n" * 30)
        (folder / "texts" / f"{name}.toml").write_text(QUESTIONS)
    return folder


def measured(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> TextResult:
    monkeypatch.setattr(text, "RESULTS", folder / "results")
    common = ["--checkpoint", str(folder / "text"), "--bank", str(folder / "bank")]
    command = [*arguments, *common, "--output", "found"]
    result = CliRunner().invoke(text.app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return load(folder / "results" / "found.json")


def paragraphs(folder: Path) -> int:
    contexts = (folder / "squad" / "valid.jsonl").read_text().splitlines()
    return sum(half_of(json.loads(line)["context"]) == "report" for line in contexts)


def test_sentences(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = str(folder / "squad")
    found = measured(folder, monkeypatch, "sentences", "--data", data, "--steps", "1,2")
    assert [(one.condition, one.write_steps) for one in found.cells] == [
        ("memory", 1),
        ("memory", 2),
        ("whole text", None),
        ("its first 3 tokens", None),
        ("its embeddings, mean-pooled to 3", None),
        ("nothing", None),
    ]
    assert {one.questions for one in found.cells} == {paragraphs(folder)}
    assert found.checkpoint == "text"
    assert found.data == "squad/valid.jsonl, the half for report"


def test_windows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = str(folder / "squad")
    found = measured(folder, monkeypatch, "windows", "--data", data, "--tokens", "60")
    assert found.section == "windows-60"
    assert [one.condition for one in found.cells[:2]] == ["memory", "whole text"]
    assert {one.questions for one in found.cells} == {paragraphs(folder)}


def test_a_window_grows_on_both_sides_in_turn() -> None:
    tokenizer = Tokenizer.from_characters("".join(map(chr, range(32, 127))))
    text = "One. Two. Three is 3. Four. Five."
    asked = Text(text, (Question("?", " 3\n", "3"), Question("??", " is 3\n", "is 3")))
    grown = {most: windows([asked], tokenizer, most)[0].text for most in (12, 19, 20, 24, 30, 33)}
    assert grown == {
        12: "Three is 3.",
        19: "Three is 3. Four.",
        20: "Three is 3. Four.",
        24: "Two. Three is 3. Four.",
        30: "Two. Three is 3. Four. Five.",
        33: text,
    }
    (window,) = windows([asked], tokenizer, 33)
    assert window.questions == asked.questions


def test_paragraphs_and_documents(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ["--data", str(folder / "squad"), "--page-tokens", "16"]
    alone = measured(folder, monkeypatch, "paragraphs", *data)
    assert [one.dtype for one in alone.cells] == ["float32", "float16", "int8"]
    assert all(one.absent == one.texts == paragraphs(folder) for one in alone.cells)
    (pairs,) = measured(folder, monkeypatch, "paragraphs", *data, "--together", "2").cells
    assert pairs.texts == paragraphs(folder) // 2
    assert pairs.pages > alone.cells[0].pages > 1


def test_lists_of_people_and_generated_ones(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generated = ["--shapes", "2x4+4,3x6+4", "--pages", "1", "--contexts", "2", "--keys", "2"]
    lists = ["lists", "--lists", str(folder / "lists"), *generated, "--steps", "1"]
    found = measured(folder, monkeypatch, *lists)
    assert [(one.condition, one.texts, one.questions, one.absent) for one in found.cells] == [
        ("shape 2x4+4, key alone", 2, 4, 4),
        ("shape 2x4+4, in words", 2, 4, 4),
        ("shape 3x6+4, key alone", 2, 4, 4),
        ("shape 3x6+4, in words", 2, 4, 4),
        ("pages 1, key alone", 2, 4, 4),
        ("pages 1, in words", 2, 4, 4),
        ("list doors, key alone", 1, 2, 2),
        ("list doors, in words", 1, 2, 2),
    ]
    assert found.data == "lists"


def test_texts_as_people_paste_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["formats", "--texts", str(folder / "texts"), "--steps", "1"]
    found = measured(folder, monkeypatch, *texts)
    assert [(one.condition, one.texts, one.questions, one.absent) for one in found.cells] == [
        ("first", 1, 1, 1),
        ("second", 1, 1, 1),
        ("all", 2, 2, 2),
    ]
    first, _, both = found.cells
    assert first.pages == both.pages > 1  # the same text twice
    assert first.calibration_error == pytest.approx(both.calibration_error)
    assert both.page_tokens == 120
