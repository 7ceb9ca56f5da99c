"""Questions about prose, and how answers to them are compared."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradmem_core.errors import DataError, RecipeError
from training.evaluation.grading import exact_match, f1, normalise
from training.tasks import Question, build_task
from training.tasks.squad import SquadQuestion, find_sentence, read_squad

CONTEXT = 'It rained. "Where to?" asked Dr. Who at 9.30 a.m. The answer was the Moon (again).'


def line(**changes: Any) -> str:
    entry = {"context": CONTEXT, "question": "Where?", "answers": ["the Moon"], **changes}
    return json.dumps(entry) + "\n"


@pytest.mark.parametrize(
    "answers", [["the Moon"], [{"text": "the Moon", "answer_start": 1}], {"text": ["the Moon"]}]
)
def test_answers_may_be_texts_or_objects(tmp_path: Path, answers: Any) -> None:
    (tmp_path / "a.jsonl").write_text(line(answers=answers))
    (question,) = read_squad(tmp_path / "a.jsonl")
    assert question == SquadQuestion(context=CONTEXT, question="Where?", answers=["the Moon"])


def test_squads_own_json_is_read(tmp_path: Path) -> None:
    asked = {"id": "1", "question": "Where?", "answers": [{"text": "the Moon", "answer_start": 5}]}
    data = {"data": [{"title": "t", "paragraphs": [{"context": CONTEXT, "qas": [asked]}]}]}
    (tmp_path / "dev-v1.1.json").write_text(json.dumps(data))
    (question,) = read_squad(tmp_path / "dev-v1.1.json")
    assert question.context == CONTEXT
    drawn = build_task("squad", tmp_path).examples(
        split="test", seed=0, size=99, count=9, queries=1
    )
    assert [example.context for example in drawn] == [CONTEXT]


@pytest.mark.parametrize(
    ("number", "text", "problem"),
    [
        (2, line() + "{\n", "not JSON"),
        (1, line(answers=[]), "answers"),
        (1, line(question=""), "question"),
        (2, line() + line(answers=["the Moon", "Mars"]), "answer 2 is not in the context"),
        (1, '["a"]\n', "line 1"),
        (1, line(answers=[{"start": 1}]), "answers"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, number: int, text: str, problem: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(DataError, match=f"line {number}\\b.*{problem}|{problem}"):
        list(read_squad(tmp_path / "a.jsonl"))


def test_a_file_of_another_form_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"data": [{}]}')
    with pytest.raises(DataError, match="paragraphs"):
        list(read_squad(tmp_path / "a.json"))
    with pytest.raises(DataError, match="cannot be read"):
        list(read_squad(tmp_path / "b.json"))


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ("rained", "It rained."),
        ("the Moon", "The answer was the Moon (again)."),
        ("9.30", '"Where to?" asked Dr. Who at 9.30 a.m.'),
        ('rained. "Where', 'It rained. "Where to?" asked Dr. Who at 9.30 a.m.'),
    ],
)
def test_short_squad_keeps_the_sentence_of_the_answer(answer: str, sentence: str) -> None:
    assert find_sentence(SquadQuestion(context=CONTEXT, question="?", answers=[answer])) == sentence


def test_paragraphs_of_the_splits_are_different(tmp_path: Path) -> None:
    lines = [
        line(context=f"Number {i} is {word}.", answers=[word])
        for i in range(200)
        for word in (str(i),)
        for _ in range(2)
    ]
    (tmp_path / "train.jsonl").write_text("".join(lines))
    (tmp_path / "valid.jsonl").write_text(line())
    task = build_task("short-squad", tmp_path)
    contexts = {
        split: {
            example.context
            for example in task.examples(split=split, seed=1, size=99, count=999, queries=1)
        }
        for split in ("train", "selection", "test")
    }
    assert len(contexts["train"]) + len(contexts["selection"]) == 200
    assert not contexts["train"] & contexts["selection"]
    assert contexts["selection"]
    assert contexts["test"] == {"The answer was the Moon (again)."}


def test_prose_needs_a_pretrained_tokenizer(tmp_path: Path) -> None:
    for name in ("squad", "short-squad", "text"):
        with pytest.raises(RecipeError, match="gradmem-train init"):
            build_task(name, tmp_path).format()


def test_a_text_is_asked_for_and_what_follows_it(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(60)]
    (tmp_path / "valid.txt").write_text(f" = A = \n\n {' '.join(words)} \n")
    (tmp_path / "test.txt").write_text(f" = B = \n = = C = = \n {' '.join(words)} \n")
    task = build_task("text", tmp_path)
    drawn = task.sample(np.random.default_rng(1), size=20, queries=12, split="test")
    assert len(drawn.context.split()) == 20
    assert drawn.context in " ".join(words)
    assert drawn.questions[0].answer == drawn.context
    after = [q for q in drawn.questions[1:] if q != drawn.questions[0]]
    assert after
    last = int(drawn.context.split()[-1][1:])
    for question in after:
        assert question.query == " ".join(words[last - 7 : last + 1])
        assert question.answer == " ".join(words[last + 1 : last + 17])
    assert task.sample(np.random.default_rng(1), size=99, queries=1, split="test").context


def test_a_text_without_paragraphs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text(" = Title = \n\n")
    with pytest.raises(DataError, match="no paragraph"):
        build_task("text", tmp_path).sample(
            np.random.default_rng(0), size=1, queries=1, split="test"
        )


@pytest.mark.parametrize(
    ("answer", "right", "exact", "overlap"),
    [
        ("The Moon.", "moon", True, 1.0),
        ("a big  moon", "moon", False, 2 / 3),
        ("Mars", "moon", False, 0.0),
        ("", "moon", False, 0.0),
        ("the", "a", True, 1.0),
        ("moon moon", "moon", False, 2 / 3),
    ],
)
def test_answers_are_compared_as_squad_does(
    answer: str, right: str, exact: bool, overlap: float
) -> None:
    question = Question("?", f"{right}\n", right)
    assert exact_match(answer, question, normalised=True) == exact
    assert f1(answer, question) == pytest.approx(overlap)


def test_the_best_of_all_right_answers_counts() -> None:
    question = Question("?", " the moon\n", "the moon", ("Luna", "the big moon"))
    assert exact_match("luna!", question, normalised=True)
    assert not exact_match("luna!", question, normalised=False)
    assert f1("big moon", question) == 1.0
    assert normalise("  The  U.S. (a test) ") == "us test"
