"""The texts that are kept for reports, and the reading of such texts."""

from itertools import chain
from pathlib import Path

import pytest

from benchmarks.accuracy.asking import ANSWER_TOKENS
from benchmarks.accuracy.pasted import read_texts
from benchmarks.accuracy.replies import AskedText
from gradmem_core.checkpoints.manifest import find_checkpoint
from gradmem_core.errors import DataError
from gradmem_core.tokenizer import Tokenizer
from training.evaluation.grading import normalise
from training.tasks import Question

TEXTS = list(read_texts().values())
GOOD = """questions = [
  { ask = "Who is at the gate?", answers = ["Mira", "Mira O."] },
  { ask = "gate code", answers = [] },
]
"""


def write(folder: Path, questions: str | None = GOOD, text: str = "gate: Mira\n") -> Path:
    (folder / "gate.txt").write_text(text)
    if questions is not None:
        (folder / "gate.toml").write_text(questions)
    return folder


def test_a_hundred_questions_are_answered_and_a_quarter_as_many_are_not() -> None:
    assert len(TEXTS) == 16
    assert sum(len(asked.present) for asked in TEXTS) == 100
    assert sum(len(asked.absent) for asked in TEXTS) == 25
    assert all(len(asked.present) >= 5 and asked.absent for asked in TEXTS)


def test_texts_and_answers_are_of_a_length_that_can_be_asked() -> None:
    tokenizer = Tokenizer.from_folder(find_checkpoint("prose"))
    for asked in TEXTS:
        assert 60 <= len(tokenizer.encode(asked.text)) <= 200
        for question in asked.present:
            assert len(tokenizer.encode(question.target)) <= ANSWER_TOKENS


def test_no_question_is_asked_twice_and_no_answer_normalises_to_nothing() -> None:
    for asked in TEXTS:
        queries = [question.query for question in (*asked.present, *asked.absent)]
        assert len(set(queries)) == len(queries)
        for question in asked.present:
            assert all(map(normalise, (question.answer, *question.also_right)))


def test_the_texts_have_several_alphabets() -> None:
    letters = set(chain.from_iterable(asked.text for asked in TEXTS))
    assert letters >= set("Дά佐ح서ễŁØé🙌€")


def test_a_text_is_read_with_both_kinds_of_questions(tmp_path: Path) -> None:
    question = Question("Who is at the gate?", " Mira\n", "Mira", ("Mira O.",))
    assert read_texts(write(tmp_path)) == {
        "gate": AskedText("gate: Mira", (question,), (Question("gate code", " \n", ""),))
    }


@pytest.mark.parametrize(
    ("questions", "reason"),
    [
        (None, "gate.toml: No such file"),
        ("questions = [", "gate.toml: Invalid"),
        ("questions = []", "gate.toml: questions: List should have at least 1 item"),
        (GOOD.replace("Mira", "Mirah", 1), "'Mirah' is not in gate.txt"),
        (GOOD.replace('ask = "gate code"', 'ask = " "'), "gate.toml: questions.1.ask: String"),
        (GOOD.replace("ask = ", "question = ", 1), "gate.toml: questions.0.ask: Field required"),
        (GOOD.replace('["Mira", "Mira O."]', '"Mira"'), "questions.0.answers: Input should be"),
        (GOOD.replace('"Mira O."', "1889"), r"questions.0.answers.1: Input should be a valid str"),
    ],
)
def test_malformed_questions_are_named(tmp_path: Path, questions: str | None, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read_texts(write(tmp_path, questions))


def test_a_folder_without_texts_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no texts"):
        read_texts(tmp_path)
