"""The passes as kernels, interpreted on a CPU (see tests/conftest.py), against the plain ones."""

import pytest
import torch
from torch import Tensor

from training.llama import kernels, passes


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def angles(batch: int, tokens: int, half: int) -> tuple[Tensor, Tensor]:
    turns = random(batch, 1, tokens, half, seed=9)
    return turns.cos(), turns.sin()


def close(ours: Tensor | tuple[Tensor, ...], theirs: Tensor | tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 5, 16), (3, 70, 24), (40, 3)])
def test_norms(shape: tuple[int, ...]) -> None:
    x, grad, along = (random(*shape, seed=seed) for seed in range(3))
    out, scale = kernels.rms_norm(x, 1e-2)
    close((out, scale), passes.rms_norm(x, 1e-2))
    close(
        kernels.rms_norm_backward(grad, out, scale),
        passes.rms_norm_backward(grad, out, scale),
    )
    close(
        kernels.rms_norm_double_backward(along, grad, out, scale),
        passes.rms_norm_double_backward(along, grad, out, scale),
    )


@pytest.mark.parametrize("shape", [(2, 5, 16), (70, 24), (2, 2100)])
def test_gates(shape: tuple[int, ...]) -> None:
    joined, along = random(*shape), random(*shape, seed=1)
    grad = random(*shape[:-1], shape[-1] // 2, seed=2)
    close(kernels.swiglu(joined), passes.swiglu(joined))
    close(kernels.swiglu_backward(grad, joined), passes.swiglu_backward(grad, joined))
    close(
        kernels.swiglu_double_backward(along, grad, joined),
        passes.swiglu_double_backward(along, grad, joined),
    )


@pytest.mark.parametrize(("positions", "heads", "key_heads"), [(1, 4, 4), (2, 4, 2), (1, 3, 1)])
def test_heads(positions: int, heads: int, key_heads: int) -> None:
    cos, sin = angles(positions, 70, 6)
    joined = random(2, 70, (heads + 2 * key_heads) * 12)
    split = kernels.split_heads(joined, cos, sin, key_heads)
    close(split, passes.split_heads(joined, cos, sin, key_heads))
    query, key, value = (random(*part.shape, seed=3) for part in split)
    close(
        kernels.join_heads(query, key, value, cos, sin),
        passes.join_heads(query, key, value, cos, sin),
    )


def test_inputs_need_not_be_contiguous() -> None:
    joined = random(16, 5).T
    close(kernels.swiglu(joined[:, :16]), passes.swiglu(joined[:, :16]))
    grad = random(5, 1).expand(5, 16)
    out, scale = passes.rms_norm(random(5, 16), 1e-2)
    close(kernels.rms_norm_backward(grad, out, scale), passes.rms_norm_backward(grad, out, scale))


def test_half_precision_is_rounded_once() -> None:
    joined = random(4, 32).bfloat16()
    exact = passes.swiglu(joined.float())
    assert kernels.swiglu(joined).dtype == torch.bfloat16
    torch.testing.assert_close(kernels.swiglu(joined), exact.bfloat16())
