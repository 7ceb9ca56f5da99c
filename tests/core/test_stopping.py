"""Stopping rules, and WRITE that stops by them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gradmem_core.model import MemoryModel
from gradmem_core.writing.descent import score_reconstruction, write
from gradmem_core.writing.stopping import AutomaticStop, write_until_settled

TinyModel = Callable[..., MemoryModel]
RandomIds = Callable[..., Tensor]
LENGTHS = torch.tensor([7, 1, 12, 4])


def test_every_document_stops_on_its_own(
    tiny_model: TinyModel, random_ids: RandomIds, family: str
) -> None:
    model, ids = tiny_model(family), random_ids(4, 12)
    together = write_until_settled(model, ids, LENGTHS, 6, tolerance=0.01)
    once = write(model, ids, LENGTHS, 1, create_graph=False)
    assert (together.losses <= once.losses[:, -1] + 1e-6).all()
    assert ((together.steps >= 1) & (together.steps <= 6)).all()
    for row, length in enumerate(LENGTHS.tolist()):
        own = slice(row, row + 1)
        alone = write_until_settled(model, ids[own, :length], LENGTHS[own], 6, tolerance=0.01)
        assert alone.steps[0] == together.steps[row]
        torch.testing.assert_close(alone.memory[0], together.memory[row], rtol=1e-4, atol=1e-5)


def test_with_no_tolerance_it_goes_on_as_plain_write_does(
    tiny_model: TinyModel, random_ids: RandomIds, family: str
) -> None:
    model, ids = tiny_model(family, inner_learning_rate=0.01), random_ids(4, 12)
    settled = write_until_settled(model, ids, LENGTHS, 3, tolerance=0.0)
    written = write(model, ids, LENGTHS, 3, create_graph=False)
    assert (settled.steps == 3).all()
    torch.testing.assert_close(settled.memory, written.memory, rtol=1e-4, atol=1e-5)


def test_it_ends_after_one_step_where_no_gain_is_enough(
    tiny_model: TinyModel, random_ids: RandomIds, family: str
) -> None:
    settled = write_until_settled(tiny_model(family), random_ids(4, 12), LENGTHS, 6, tolerance=1.0)
    assert (settled.steps == 1).all()


def test_it_gives_the_same_twice(tiny_model: TinyModel, random_ids: RandomIds, family: str) -> None:
    model, ids = tiny_model(family), random_ids(4, 12)
    first, second = (write_until_settled(model, ids, LENGTHS, 6) for _ in range(2))
    assert torch.equal(first.memory, second.memory)
    assert torch.equal(first.losses, second.losses)
    assert torch.equal(first.steps, second.steps)


def test_a_step_that_raises_the_loss_is_taken_back(
    tiny_model: TinyModel, random_ids: RandomIds, family: str
) -> None:
    model, ids = tiny_model(family, inner_learning_rate=3.0), random_ids(4, 12)
    settled = write_until_settled(model, ids, LENGTHS, 6, tolerance=0.0)
    path = write(model, ids, LENGTHS, 6, create_graph=False).losses[:, 1:]  # (B, 6)
    assert (path[:, 1:] > path[:, :-1]).any()
    for row, taken in enumerate(settled.steps.tolist()):
        torch.testing.assert_close(settled.losses[row], path[row, :taken].min())
    score = score_reconstruction(model, settled.memory, ids, LENGTHS)
    torch.testing.assert_close(settled.losses, score.loss)


@pytest.mark.parametrize(
    ("losses", "made", "best"),
    [
        ([3.0, 2.0, 1.0, 0.5], 4, 4),  # each helps, but there may be no more
        ([3.0, 2.9, 1.0], 2, 2),  # the second lowered it by less than a tenth of 4
        ([3.0, 3.5], 2, 1),  # and here not at all
        ([3.0, 2.0, 2.0], 3, 2),
        ([5.0], 1, 1),  # worse than the start, but there is nothing else
    ],
)
def test_when_steps_end_and_which_is_kept(losses: list[float], made: int, best: int) -> None:
    stop = AutomaticStop[int](4.0, 4, tolerance=0.1)
    for step, loss in enumerate(losses, start=1):
        if not stop.update(loss, step):
            break
    assert (stop.steps, stop.best, stop.loss) == (made, best, losses[best - 1])
