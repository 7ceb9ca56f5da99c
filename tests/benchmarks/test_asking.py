"""What answers are worth: figures of a cell by hand, and answers of a tiny checkpoint."""

from dataclasses import replace

import pytest
import torch

from benchmarks.accuracy.asking import Graded, ask_memory, cell
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.reading.decoding import Sampling
from gradmem_core.reading.generation import answer_queries
from gradmem_core.texts.documents import decode_answer, prepare_query
from tests.pretrained import text_checkpoint
from training.tasks import Question

GIVEN = Graded(absent=False, held_back=False, exact=True, f1=1.0, confidence=0.95)
WRONG = replace(GIVEN, exact=False, f1=0.5, confidence=0.75)
HELD = replace(GIVEN, held_back=True, confidence=0.15)
HELD_WRONG = replace(WRONG, held_back=True, confidence=0.05)
NOT_STATED = Graded(absent=True, held_back=False, exact=False, f1=0.0, confidence=0.65)
ASKED = "When was the tower built?"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return text_checkpoint(tmp_path_factory.mktemp("tiny"))


def test_answers_that_are_held_back_count_as_refused() -> None:
    found = cell("memory", [GIVEN, WRONG, HELD, NOT_STATED], [WRONG, HELD, NOT_STATED], texts=1)
    assert found.exact_match == pytest.approx(1 / 4)
    assert found.f1 == pytest.approx(1.5 / 4)
    assert found.refused == pytest.approx(2 / 4)
    assert found.absent_refused == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("one", "answered", "error"),
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
    one: Graded, answered: bool, error: float
) -> None:
    sure = replace(GIVEN, confidence=1.0)  # adds nothing to its bin
    present, absent = ([sure, one], []) if answered else ([sure], [one])
    found = cell("memory", present, absent, texts=1)
    assert found.calibration_error == pytest.approx(error / 2)


def test_errors_of_a_bin_cancel_and_those_of_two_do_not() -> None:
    half = replace(GIVEN, confidence=0.5)
    both = cell("memory", [half, replace(half, exact=False)], texts=1)
    assert both.calibration_error == 0
    apart = cell("memory", [half, replace(half, exact=False, confidence=0.4)], texts=1)
    assert apart.calibration_error == pytest.approx((0.5 + 0.4) / 2)


def test_a_held_back_answer_is_graded_as_when_it_is_given(checkpoint: Checkpoint) -> None:
    said = first_answer(checkpoint)
    questions = [Question(ASKED, f" {said}\n", said), Question("Where?", " nowhere\n", "nowhere")]
    memory = torch.zeros_like(checkpoint.model.initial_memory)[None]
    given = ask_memory(checkpoint, memory, questions)
    assert [one.exact for one in given] == [True, False]
    assert all(one.found for one in given)
    held = ask_memory(checkpoint, memory, questions, min_confidence=1.0)
    assert held == [replace(one, held_back=True) for one in given]
    assert not any(one.found for one in held)


def test_not_stated_is_a_refusal_without_a_calibration(checkpoint: Checkpoint) -> None:
    assert checkpoint.calibration is None
    said = first_answer(checkpoint)
    task = checkpoint.task.model_copy(update={"absent_answer": f" {said}\n"})
    memory = torch.zeros_like(checkpoint.model.initial_memory)[None]
    (found,) = ask_memory(
        replace(checkpoint, task=task), memory, [Question(ASKED, f" {said}\n", said)]
    )
    assert found.absent
    assert not any((found.found, found.held_back, found.exact))
    assert 0 < found.confidence < 1


def first_answer(checkpoint: Checkpoint) -> str:
    """Return what an empty memory says."""
    memory = torch.zeros_like(checkpoint.model.initial_memory)[None]
    query = prepare_query(checkpoint, ASKED)
    (answer,) = answer_queries(checkpoint, memory, [query], [Sampling(24)])
    said = decode_answer(checkpoint, answer)
    assert said
    return said
