"""WRITE without the second-order term: gradients that are constants to a loss of the memory."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gradmem_core.model import MemoryModel
from gradmem_core.reading.scoring import read
from gradmem_core.writing.descent import score_reconstruction, write

TinyModel = Callable[..., MemoryModel]
RandomIds = Callable[..., Tensor]

LENGTHS = torch.tensor([7, 1, 12, 4])


def read_loss(model: MemoryModel, memory: Tensor, ids: Tensor) -> Tensor:
    queries = ids[:, 12:].view(len(ids), 2, 4)
    logits = read(model, memory, queries)[:, :, :-1]
    return F.cross_entropy(logits.flatten(0, 2), queries.flatten())


def constant_steps(model: MemoryModel, ids: Tensor, steps: int) -> Tensor:
    """Each step's clipped gradient, taken back from what plain WRITE moved: `(K, B, m, d)`."""
    rate = model.inner_learning_rate()
    before = model.initial_memory.expand(len(ids), -1, -1)
    gradients = []
    for step in range(1, steps + 1):
        after = write(model, ids[:, :12], LENGTHS, step, create_graph=False).memory
        gradients.append(((before - after) / rate).detach())
        before = after
    return torch.stack(gradients)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_the_gradient_is_that_with_constant_steps(
    tiny_model: TinyModel, random_ids: RandomIds, family: str, steps: int, clip: float | None
) -> None:
    settings = {"inner_learning_rate_per_element": True, "inner_gradient_clip": clip}
    model, ids = tiny_model(family, **settings).double(), random_ids(4, 20)
    start, log_rate = model.initial_memory, model.log_inner_learning_rate
    assert log_rate is not None
    written = write(
        model, ids[:, :12], LENGTHS, steps, create_graph=True, second_order=False, measure=False
    )
    found = torch.autograd.grad(read_loss(model, written.memory, ids), (start, log_rate))

    by_hand = start - log_rate.exp() * constant_steps(model, ids, steps).sum(dim=0)
    expected = torch.autograd.grad(read_loss(model, by_hand, ids), (start, log_rate))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


def test_reading_teaches_the_write_head_nothing(
    tiny_model: TinyModel, random_ids: RandomIds, family: str
) -> None:
    model, ids = tiny_model(family), random_ids(4, 20)
    assert model.write_head is not None
    for second_order in (False, True):
        written = write(
            model, ids[:, :12], LENGTHS, 2, create_graph=True, second_order=second_order
        )
        (gradient,) = torch.autograd.grad(
            read_loss(model, written.memory, ids), model.write_head.weight, allow_unused=True
        )
        assert (gradient is not None) == second_order


def test_the_loss_of_the_last_step_keeps_its_graph(
    tiny_model: TinyModel, random_ids: RandomIds, family: str
) -> None:
    model, ids = tiny_model(family).double(), random_ids(4, 20)
    assert model.write_head is not None
    written = write(
        model, ids[:, :12], LENGTHS, 3, create_graph=True, second_order=False, measure=False
    )
    before = write(model, ids[:, :12], LENGTHS, 2, create_graph=False).memory
    score = score_reconstruction(model, before, ids[:, :12], LENGTHS)
    torch.testing.assert_close(written.losses[:, 2], score.loss)
    (gradient,) = torch.autograd.grad(written.losses[:, 2].sum(), model.write_head.weight)
    assert gradient.norm() > 0
