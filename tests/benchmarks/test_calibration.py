"""Calibration: fitted log-odds are those that the samples were drawn with."""

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy.calibration import (
    PageReply,
    QuestionReplies,
    draw_documents,
    fit,
    squad_documents,
)
from benchmarks.accuracy.replies import AskedText
from gradmem_core.checkpoints.calibration import Evidence, Logistic
from tests.benchmarks.commands import invoke
from training.tasks import Question


def draw_replies(rng: np.random.Generator, pages: int) -> QuestionReplies:
    """A question whose pages are right with the probability that their evidence says.

    An answer is right with log-odds `2 + 3 * answer`; the text does not say, where a page says so,
    with log-odds `-4 - absent`.
    """
    replies = []
    for page in range(pages):
        answer, absent = -2 * rng.random(), -8 * rng.random()
        right = bool(rng.random() < 1 / (1 + math.exp(-(2 + 3 * answer))))
        says_absent = bool(rng.random() < 0.3)
        holds = page == 0
        replies.append(
            PageReply(
                Evidence(-1.0 + holds + 0.2 * rng.random(), absent, answer, 2 * answer),
                says_absent,
                right and not says_absent,
                holds,
            )
        )
    answered = bool(rng.random() < 1 / (1 + math.exp(4 + replies[0].evidence.absent)))
    return QuestionReplies(answered, replies)


def test_the_confidence_of_answers_is_their_frequency() -> None:
    rng = np.random.default_rng(3)
    fitted = fit([draw_replies(rng, pages=1) for _ in range(4000)])
    for answer in (-1.5, -1.0, -0.5, -0.1):
        expected = 1 / (1 + math.exp(-(2 + 3 * answer)))
        found = fitted.answer.probability(Evidence(-0.1, -4.0, answer, 2 * answer), pages=1)
        assert found == pytest.approx(expected, abs=0.06)
    for absent in (-7.0, -4.0, -1.0):
        expected = 1 / (1 + math.exp(4 + absent))  # that the text does answer
        found = fitted.absence.probability(Evidence(-0.1, absent), pages=1)
        assert found == pytest.approx(1 - expected, abs=0.08)
    assert 0 <= fitted.min_confidence <= 0.5


def test_the_page_that_holds_the_answer_is_read_on() -> None:
    rng = np.random.default_rng(4)
    questions = [draw_replies(rng, pages=6) for _ in range(300)]
    fitted = fit(questions)
    for asked in questions:
        scores = [fitted.page.score(reply.evidence, pages=6) for reply in asked.replies]
        assert max(range(6), key=scores.__getitem__) == 0


def test_a_probability_needs_no_room_for_large_scores() -> None:
    sure = Logistic(bias=1e6)
    assert sure.probability(Evidence(0, 0), pages=1) == 1
    assert Logistic(bias=-1e6).probability(Evidence(0, 0), pages=1) == 0


def test_generated_documents_answer_their_questions_and_not_the_others() -> None:
    documents = list(draw_documents(60))
    assert documents == list(draw_documents(60))
    assert sum(len(text.absent) for (text,) in documents) > 60
    for (text,) in documents:
        assert 1 <= len(text.present) <= 5
        queries = {question.query for question in text.present}
        assert all(question.answer.casefold() in text.text.casefold() for question in text.present)
        assert not queries & {question.query for question in text.absent}


def test_paragraphs_are_asked_questions_of_another() -> None:
    paragraphs = [AskedText(str(n), (Question(f"q{n}", "", "a"),)) for n in range(20)]
    documents = list(squad_documents(paragraphs, long_documents=1))
    assert [len(texts) for texts in documents] == [*[1] * 20, 10]
    for texts in documents:
        present, absent = (
            {question.query for text in texts for question in getattr(text, kind)}
            for kind in ("present", "absent")
        )
        assert len(absent) == 1
        assert not present & absent


def test_a_checkpoint_that_never_refuses_is_left_as_it_is(folder: Path) -> None:
    manifest = (folder / "text" / "gradmem.json").read_bytes()
    options = ("--data", folder / "squad", "--bank", folder / "bank", "--generated", 4)
    refused = invoke("calibrate", folder / "text", *options, "--steps", 1)
    assert refused.exit_code == 2
    assert "refused every one" in refused.stderr
    assert (folder / "text" / "gradmem.json").read_bytes() == manifest
