"""Derivatives that are written out, against finite differences and torch's own."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from training.llama.fused import Fused, low_rank_linear
from training.llama.passes import compile_passes

FUSED = Fused()
EPSILON = 1e-2
SCALE = 0.3
IDS = torch.tensor([[0, 3, 1], [4, 4, 2]])


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
    query, key, value = torch.split(joined.view(2, 3, 8, 4).transpose(1, 2), [4, 2, 2], dim=1)
    half = [torch.cat([-x[..., 2:], x[..., :2]], dim=-1) for x in (query, key)]
    return query * cos + half[0] * sin, key * cos + half[1] * sin, value


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    hidden = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool).triu(1)
    scores = (SCALE * query @ key.mT).masked_fill(hidden, -torch.inf)
    return scores.softmax(dim=-1) @ value


def token_losses(logits: Tensor) -> Tensor:
    return FUSED.token_losses(logits, IDS)


def plain_losses(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits.mT, IDS, reduction="none")


Piece = Callable[..., Tensor | tuple[Tensor, ...]]
PIECES: dict[str, tuple[Piece, Piece, tuple[Tensor, ...]]] = {
    "normalise": (lambda x: FUSED.normalise(x, EPSILON), plain_norm, (random(2, 3, 5),)),
    "gate": (FUSED.gate, plain_gate, (random(2, 3, 8),)),
    "heads": (part, plain_heads, (random(2, 3, 32),)),
    "token losses": (token_losses, plain_losses, (random(2, 3, 5),)),
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


def derivatives(piece: Piece, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Values, gradients, and gradients of a function of the gradients."""
    out = piece(*inputs)
    outs = list(out) if isinstance(out, tuple) else [out]
    first = torch.autograd.grad(
        [x.sin().sum() for x in outs], inputs, create_graph=True, materialize_grads=True
    )
    second = torch.autograd.grad([x.cos().sum() for x in first], inputs)
    return [*outs, *first, *second]


@pytest.mark.slow
@pytest.mark.slow
def test_a_compiler_can_follow_every_pass() -> None:
    traced = Fused(compile_passes("eager"))
    inputs = (random(2, 4, 5, 3), random(2, 2, 5, 3, seed=1), random(2, 2, 5, 3, seed=2))
    pairs: list[tuple[Piece, Piece, tuple[Tensor, ...]]] = [
        (lambda x: traced.normalise(x, EPSILON), PIECES["normalise"][0], PIECES["normalise"][2]),
        (lambda x: traced.token_losses(x, IDS), token_losses, PIECES["token losses"][2]),
        (traced.gate, FUSED.gate, PIECES["gate"][2]),
        (lambda x: traced.heads(x, *angles(3, 2), 2), part, PIECES["heads"][2]),
        (lambda q, k, v: traced.attend(q, k, v, SCALE), attend, inputs),
    ]
    for theirs, ours, tensors in pairs:
        torch.testing.assert_close(derivatives(theirs, tensors), derivatives(ours, tensors))


def test_without_a_working_compiler_passes_are_plain() -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such header")

    fused = Fused(compile_passes(broken))
    with pytest.warns(UserWarning, match="swiglu is not compiled.*\n?.*no such header"):
        first = fused.gate(PIECES["gate"][2][0])
    assert torch.equal(first, FUSED.gate(PIECES["gate"][2][0]))
    assert torch.equal(fused.gate(PIECES["gate"][2][0]), first)  # silently


def test_low_rank_gradients_are_those_of_the_whole_weight() -> None:
    parts = [3, 5]
    x, base = random(2, 4, 6), random(8, 6, seed=1).detach()
    down, up = random(4, 6, seed=2), random(8, 2, seed=3)

    def weight() -> Tensor:
        products = zip(torch.split(up, parts), torch.split(down, 2), strict=True)
        return base + torch.cat([b @ a for b, a in products])

    def ours(x: Tensor) -> Tensor:
        return low_rank_linear(x, weight().detach(), down, up, parts)

    def theirs(x: Tensor) -> Tensor:
        return F.linear(x, weight())

    def outer(linear: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        (inner,) = torch.autograd.grad(linear(x).sin().sum(), x, create_graph=True)
        return torch.autograd.grad(linear(x + inner).cos().sum(), (x, down, up))

    torch.testing.assert_close(outer(ours), outer(theirs), rtol=1e-12, atol=1e-12)
