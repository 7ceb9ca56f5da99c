"""The kernels of attention, interpreted on a CPU (see tests/conftest.py)."""

from types import ModuleType

import pytest
import torch
from torch import Tensor

from gradmem_core.attention import blocks, kernels
from gradmem_core.attention.causal import choose_implementation

SCALE = 0.3


def compute_all(
    implementation: ModuleType, inputs: list[Tensor], adjoints: list[Tensor]
) -> list[Tensor]:
    """Value, gradients and second derivatives of attention."""
    query, key, value, _ = inputs
    out, log_sums = implementation.compute_forward(query, key, value, SCALE)
    *gradients, row_sums = implementation.compute_gradient(*inputs, out, log_sums, SCALE)
    second = implementation.compute_second_derivative(*inputs, log_sums, row_sums, *adjoints, SCALE)
    return [out, log_sums, *gradients, row_sums, *second]


@pytest.mark.parametrize(
    ("tokens", "width"), [(1, 16), (5, 32), (63, 16), (64, 16), (65, 16), (150, 32), (70, 64)]
)
def test_kernels_compute_what_blocks_of_rows_do(tokens: int, width: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    tensors = [torch.randn(2, tokens, width, generator=generator) for _ in range(7)]
    exact = [tensor.double() for tensor in tensors]
    ours = compute_all(kernels, tensors[:4], tensors[4:])
    theirs = compute_all(blocks, exact[:4], exact[4:])
    for mine, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, right.float(), rtol=1e-4, atol=1e-5)


def test_kernels_overflow_no_sooner_than_blocks() -> None:
    """Scores far from zero, at which exponentials of plain scores would be infinite."""
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(1, 70, 16, generator=generator) for _ in range(3))
    ours, _ = kernels.compute_forward(30 * query, 30 * key, value, SCALE)
    theirs, _ = blocks.compute_forward(30 * query, 30 * key, value, SCALE)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_row_does_not_depend_on_what_follows() -> None:
    generator = torch.Generator().manual_seed(4)
    query, key, value = (torch.randn(1, 100, 16, generator=generator) for _ in range(3))
    out, _ = kernels.compute_forward(query, key, value, SCALE)
    query, key, value = (tensor[:, :40].contiguous() for tensor in (query, key, value))
    out_of_part, _ = kernels.compute_forward(query, key, value, SCALE)
    torch.testing.assert_close(out[:, :40], out_of_part, rtol=0, atol=0)


def test_a_cpu_takes_blocks_of_rows() -> None:
    assert choose_implementation(torch.zeros(1, 300, 32)) is blocks
