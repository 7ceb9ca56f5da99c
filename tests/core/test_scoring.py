"""READ, teacher-forced: queries packed behind one memory are read as if each were alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gradmem_core.model import MemoryModel
from gradmem_core.reading.scoring import read

TinyModel = Callable[..., MemoryModel]
RandomIds = Callable[..., Tensor]

TOLERANCE = 1e-5
LENGTHS = [[4, 6, 1], [6, 2, 5]]


def relative_error(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).norm() / expected.norm())


def memories(model: MemoryModel, count: int) -> Tensor:
    random = torch.Generator().manual_seed(1)
    shape = (count, model.config.memory_tokens, model.backbone.width)
    return torch.randn(shape, generator=random).requires_grad_()


def alone(model: MemoryModel, memory: Tensor, query: Tensor) -> Tensor:
    """Logits `(T + 1, V)` of one query of one memory, plainly causal."""
    inputs = torch.cat([model.prefix(memory[None]), model.backbone.embed(query[None])], dim=1)
    hidden = model.backbone.hidden(inputs)[0, model.config.memory_tokens - 1 :]
    return model.backbone.logits(hidden)


def loss_of(logits: Tensor, query: Tensor) -> Tensor:
    return F.cross_entropy(logits[: len(query)], query, reduction="sum")


def gradients(model: MemoryModel, memory: Tensor, losses: list[Tensor]) -> dict[str, Tensor]:
    named = dict(model.backbone.named_parameters()) | {"memory": memory}
    total = torch.stack(losses).sum()
    return dict(zip(named, torch.autograd.grad(total, list(named.values())), strict=True))


@pytest.mark.parametrize("config", [{}, {"memory_projection": True}], ids=str)
def test_packed_queries_are_read_as_one_by_one(
    tiny_model: TinyModel, random_ids: RandomIds, family: str, config: Any
) -> None:
    model = tiny_model(family, **config)
    memory, queries = memories(model, 2), random_ids(2, 3, 6)
    packed = read(model, memory, queries)
    assert packed.shape == (2, 3, 7, model.backbone.vocabulary_size)
    packed_losses, alone_losses = [], []
    for row, lengths in enumerate(LENGTHS):
        for column, length in enumerate(lengths):
            query = queries[row, column, :length]
            expected = alone(model, memory[row], query)
            found = packed[row, column, : length + 1]
            assert relative_error(found.detach(), expected.detach()) < TOLERANCE
            packed_losses.append(loss_of(found, query))
            alone_losses.append(loss_of(expected, query))
    expected_gradients = gradients(model, memory, alone_losses)
    for name, gradient in gradients(model, memory, packed_losses).items():
        assert relative_error(gradient, expected_gradients[name]) < TOLERANCE, name


def test_a_query_does_not_see_the_others(
    tiny_model: TinyModel, random_ids: RandomIds, family: str
) -> None:
    model = tiny_model(family)
    memory, queries = memories(model, 1), random_ids(1, 3, 5)
    others = random_ids(1, 3, 5, seed=3)
    others[:, 1] = queries[:, 1]
    first, second = read(model, memory, queries), read(model, memory, others)
    assert relative_error(first[:, 1].detach(), second[:, 1].detach()) < TOLERANCE
    assert relative_error(first[:, 2].detach(), second[:, 2].detach()) > 1e-3


def test_a_token_does_not_see_what_follows_it(
    tiny_model: TinyModel, random_ids: RandomIds, family: str
) -> None:
    model = tiny_model(family)
    memory, queries = memories(model, 1), random_ids(1, 2, 5)
    changed = queries.clone()
    changed[:, :, 3:] = random_ids(1, 2, 2, seed=3)
    first, second = read(model, memory, queries), read(model, memory, changed)
    assert relative_error(first[:, :, :4].detach(), second[:, :, :4].detach()) < TOLERANCE
    assert relative_error(first[:, :, 4:].detach(), second[:, :, 4:].detach()) > 1e-3
