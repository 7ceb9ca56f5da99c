"""Figures of answers by hand, and answers of a tiny checkpoint."""

from dataclasses import replace

import pytest
import torch

from benchmarks.accuracy.asking import ask_memory, ask_vectors
from benchmarks.accuracy.replies import AskedText, GradedAnswer, Replies, calibration_error
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.reading.generation import answer_queries
from gradmem_core.reading.sampling import Sampling
from gradmem_core.texts.documents import decode_answer, prepare_query
from tests.pretrained import text_checkpoint
from training.tasks import Question

ASKED = "When was the tower built?"
QUESTION = Question(ASKED, " 1889\n", "1889")
GIVEN = GradedAnswer(QUESTION, "1889", held_back=False, exact=True, f1=1.0, confidence=0.95)
WRONG = replace(GIVEN, text="1888 or 1889", exact=False, f1=0.5, confidence=0.75)
HELD = replace(GIVEN, held_back=True, confidence=0.15)
HELD_WRONG = replace(WRONG, held_back=True, confidence=0.05)
NOT_STATED = replace(GIVEN, text=None, exact=False, f1=0.0, confidence=0.65)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return text_checkpoint(tmp_path_factory.mktemp("tiny"))


def test_answers_that_are_held_back_count_as_rejections() -> None:
    replies = Replies([GIVEN, WRONG, HELD, NOT_STATED], [WRONG, HELD, NOT_STATED])
    assert replies.exact_match == pytest.approx(1 / 4)
    assert replies.f1 == pytest.approx(1.5 / 4)
    assert replies.false_rejection_rate == pytest.approx(2 / 4)
    assert replies.rejection_recall == pytest.approx(2 / 3)
    assert replies.rejection_precision == pytest.approx(2 / 4)


def test_what_was_not_asked_has_no_figure() -> None:
    replies = Replies([GIVEN, WRONG])
    figures = (replies.rejection_recall, replies.rejection_precision, replies.forced)
    assert figures == (None, None, None)
    tried = [replace(GIVEN, forced=True), replace(WRONG, forced=False), GIVEN]
    assert Replies(tried).forced == pytest.approx(1 / 2)


def test_replies_about_several_texts_add_up() -> None:
    parts = [Replies([GIVEN], [WRONG], pages=2), Replies([WRONG, HELD], pages=3)]
    assert Replies.merge(parts) == Replies([GIVEN, WRONG, HELD], [WRONG], texts=2, pages=5)


@pytest.mark.parametrize(
    ("answer", "answered", "error"),
    [
        (GIVEN, True, 0.05),
        (WRONG, True, 0.75),
        (HELD, True, 0.85),  # its answer was right, and it was not sure of it
        (HELD_WRONG, True, 0.05),
        (NOT_STATED, True, 0.65),
        (GIVEN, False, 0.95),
        (HELD, False, 0.15),  # rightly unsure
        (HELD_WRONG, False, 0.05),
        (NOT_STATED, False, 0.35),
    ],
)
def test_confidence_is_held_against_the_answer_that_it_is_of(
    answer: GradedAnswer, answered: bool, error: float
) -> None:
    answer = answer if answered else replace(answer, exact=False)
    sure = replace(GIVEN, confidence=1.0)  # adds nothing to its bin
    present, absent = ([sure, answer], []) if answered else ([sure], [answer])
    assert Replies(present, absent).calibration_error == pytest.approx(error / 2)


def test_errors_of_a_bin_cancel_and_those_of_two_do_not() -> None:
    assert calibration_error([(0.75, True), (0.75, False)]) == pytest.approx(0.25)
    assert calibration_error([(0.5, True), (0.5, False)]) == 0
    assert calibration_error([(0.5, True), (0.4, False)]) == pytest.approx((0.5 + 0.4) / 2)
    assert calibration_error([(1.0, True), (1.0, False), (0.0, False)]) == pytest.approx(1 / 3)


def test_a_held_back_answer_is_graded_as_when_it_is_given(checkpoint: Checkpoint) -> None:
    memory = torch.zeros_like(checkpoint.model.initial_memory)[None]
    text = ask_for(first_answer(checkpoint))
    given = ask_memory(checkpoint, memory, [text])
    assert [answer.exact for answer in given.present] == [True, False]
    assert given.false_rejection_rate == 0
    held = ask_memory(checkpoint, memory, [text], min_confidence=1.0)
    assert held.present == [replace(answer, held_back=True) for answer in given.present]
    assert held.false_rejection_rate == 1


def test_grading_may_compare_letter_by_letter(checkpoint: Checkpoint) -> None:
    memory = torch.zeros_like(checkpoint.model.initial_memory)[None]
    answer = first_answer(checkpoint)
    for reference, normalised, exact in [
        (f"The {answer}.", True, True),
        (f"The {answer}.", False, False),
        (answer, False, True),
    ]:
        replies = ask_memory(checkpoint, memory, [ask_for(reference)], normalised=normalised)
        assert replies.present[0].exact == exact


def test_a_memory_and_its_prefix_answer_alike(checkpoint: Checkpoint) -> None:
    text = ask_for(first_answer(checkpoint))
    memory = checkpoint.model.initial_memory[None].detach()
    from_memory = ask_memory(checkpoint, memory, [text])
    from_vectors = ask_vectors(checkpoint, checkpoint.model.prefix(memory)[0], text)
    assert [answer.text for answer in from_vectors.present] == [
        answer.text for answer in from_memory.present
    ]
    assert from_vectors.forced is not None


def test_not_stated_is_a_rejection_without_a_calibration(checkpoint: Checkpoint) -> None:
    assert checkpoint.calibration is None
    said = first_answer(checkpoint)
    task = checkpoint.task.model_copy(update={"absent_answer": f" {said}\n"})
    memory = torch.zeros_like(checkpoint.model.initial_memory)[None]
    replies = ask_memory(replace(checkpoint, task=task), memory, [ask_for(said)])
    answer = replies.present[0]
    assert answer.text is None
    assert answer.rejected
    assert not answer.held_back
    assert not answer.exact
    assert 0 < answer.confidence < 1


def ask_for(answer: str) -> AskedText:
    """A text that answers a question so, and another otherwise."""
    right = Question(ASKED, f" {answer}\n", answer)
    return AskedText("", (right, Question("Where?", " nowhere\n", "nowhere")))


def first_answer(checkpoint: Checkpoint) -> str:
    """Return the answer of an empty memory."""
    memory = torch.zeros_like(checkpoint.model.initial_memory)[None]
    query = prepare_query(checkpoint, ASKED)
    (answer,) = answer_queries(checkpoint, memory, [query], [Sampling(24)])
    text = decode_answer(checkpoint, answer)
    assert text
    return text
