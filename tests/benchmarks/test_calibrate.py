"""Calibration: fitted log-odds are those that the samples were drawn with."""

import math

import numpy as np
import pytest

from benchmarks.accuracy.asking import calibration_error
from benchmarks.accuracy.calibrate import Asked, Reply, draw_documents, fit
from gradmem_core.checkpoints.calibration import Evidence, Logistic


def asked(rng: np.random.Generator, pages: int) -> Asked:
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
            Reply(
                Evidence(-1.0 + holds + 0.2 * rng.random(), absent, answer, 2 * answer),
                says_absent,
                right and not says_absent,
                holds,
            )
        )
    answered = bool(rng.random() < 1 / (1 + math.exp(4 + replies[0].evidence.absent)))
    return Asked(answered, replies)


def test_the_confidence_of_answers_is_their_frequency() -> None:
    rng = np.random.default_rng(3)
    fitted = fit([asked(rng, pages=1) for _ in range(4000)])
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
    questions = [asked(rng, pages=6) for _ in range(300)]
    fitted = fit(questions)
    for one in questions:
        scores = [fitted.page.score(reply.evidence, pages=6) for reply in one.replies]
        assert max(range(6), key=scores.__getitem__) == 0


def test_a_probability_needs_no_room_for_large_scores() -> None:
    sure = Logistic(bias=1e6)
    assert sure.probability(Evidence(0, 0), pages=1) == 1
    assert Logistic(bias=-1e6).probability(Evidence(0, 0), pages=1) == 0


def test_the_expected_calibration_error_is_that_of_its_bins() -> None:
    assert calibration_error([(0.75, True), (0.75, False)]) == pytest.approx(0.25)
    assert calibration_error([(0.05, False), (0.95, True)]) == pytest.approx(0.05)
    assert calibration_error([(1.0, True), (1.0, False), (0.0, False)]) == pytest.approx(1 / 3)


def test_generated_documents_answer_their_questions_and_not_the_others() -> None:
    documents = draw_documents(60)
    assert documents == draw_documents(60)
    assert sum(len(one.absent) for one in documents) > 60
    for one in documents:
        (text,) = one.texts
        assert 1 <= len(text.questions) <= 5
        queries = {question.query for question in text.questions}
        assert all(
            question.answer.casefold() in text.text.casefold() for question in text.questions
        )
        assert not queries & {question.query for question in one.absent}
