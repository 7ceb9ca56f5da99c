"""Pieces of a layer whose derivatives are written out, against finite differences and torch's."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from training.fused import Fused, low_rank_linear

FUSED = Fused()
EPSILON = 1e-2
SCALE = 0.3


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def angles(tokens: int, half: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines `(1, 1, T, w / 2)` of some angles."""
    turns = torch.outer(torch.arange(tokens), torch.logspace(0, -1, half)).double()[None, None]
    return turns.cos(), turns.sin()


def part(joined: Tensor) -> tuple[Tensor, ...]:
    """Four query heads and two key-value heads of width 4."""
    return FUSED.heads(joined, *angles(joined.shape[1], 2), 2)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return FUSED.attend(query, key, value, SCALE)


def plain_norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=EPSILON)


def plain_gate(joined: Tensor) -> Tensor:
    gate, up = joined.chunk(2, dim=-1)
    return F.silu(gate) * up


def plain_heads(joined: Tensor) -> tuple[Tensor, ...]:
    cos, sin = (torch.cat([x, x], dim=-1) for x in angles(joined.shape[1], 2))
    query, key, value = joined.unflatten(-1, (8, 4)).transpose(1, 2).split([4, 2, 2], dim=1)
    half = [torch.cat([-x[..., 2:], x[..., :2]], dim=-1) for x in (query, key)]
    return query * cos + half[0] * sin, key * cos + half[1] * sin, value


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    hidden = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool).triu(1)
    scores = (SCALE * query @ key.mT).masked_fill(hidden, -torch.inf)
    return scores.softmax(dim=-1) @ value


Piece = Callable[..., Tensor | tuple[Tensor, ...]]
PIECES: dict[str, tuple[Piece, Piece, tuple[Tensor, ...]]] = {
    "normalise": (lambda x: FUSED.normalise(x, EPSILON), plain_norm, (random(2, 3, 5),)),
    "gate": (FUSED.gate, plain_gate, (random(2, 3, 8),)),
    "heads": (part, plain_heads, (random(2, 3, 32),)),
    "attend": (
        attend,
        plain_attention,
        (random(2, 4, 5, 3), random(2, 2, 5, 3, seed=1), random(2, 2, 5, 3, seed=2)),
    ),
}


@pytest.mark.parametrize("name", PIECES)
def test_derivatives_are_finite_differences(name: str) -> None:
    piece, _, inputs = PIECES[name]
    assert torch.autograd.gradcheck(piece, inputs)
    assert torch.autograd.gradgradcheck(piece, inputs)


@pytest.mark.parametrize("name", PIECES)
def test_values_are_those_of_plain_operations(name: str) -> None:
    piece, plain, inputs = PIECES[name]
    torch.testing.assert_close(piece(*inputs), plain(*inputs), rtol=1e-12, atol=1e-12)
