"""Causal attention as a function that can be differentiated twice.

WRITE takes the gradient of a loss through attention, and meta-training the gradient of that
gradient. The backward passes of torch's fused kernels have no derivative, and differentiating plain
matrix products twice spends its time on elementwise passes over `(T, T)` matrices. Here the
derivatives are written out, and computed by kernels (kernels.py) or by torch's own operations a
block of rows at a time (blocks.py).

Shapes: `N` batch times heads, `T` tokens, `w` width of a head.
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gradmem_core.attention import blocks

KERNEL_WIDTHS = (16, 32, 64)
"Widths of a head that the kernels hold in registers."


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Apply softmax attention in which a token sees itself and the tokens before it.

    Args:
        query: `(N, T, w)`.
        key: `(N, T, w)`.
        value: `(N, T, w)`.
        scale: Factor of the products of queries and keys.

    Returns:
        `(N, T, w)`.
    """
    # Here, since a copy that `_Attention` made would be cut off from the second derivative.
    query, key, value = (x.contiguous() for x in (query, key, value))
    return _Attention.apply(query, key, value, scale)  # type: ignore[no-any-return, no-untyped-call]


class _Attention(torch.autograd.Function):
    """`O = P V` with `P = softmax(scale Q K^T)`."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:  # noqa: ANN401
        out, log_sums = choose_implementation(query).compute_forward(query, key, value, scale)
        ctx.save_for_backward(query, key, value, out, log_sums)
        ctx.scale = scale
        return out  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> Any:  # noqa: ANN401
        query, key, value, out, log_sums = ctx.saved_tensors
        # `out` and `log_sums` depend on the other inputs; _Gradient accounts for that itself.
        grads = _Gradient.apply(  # type: ignore[no-untyped-call]
            query, key, value, grad_out, out.detach(), log_sums, ctx.scale
        )
        return *grads, None


class _Gradient(torch.autograd.Function):
    """The gradients of `_Attention`: `dV = P^T dO`, and with `dS = P * (dO V^T - rowsum(dO * O))`,
    `dQ = scale dS K` and `dK = scale dS^T Q`."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        query: Tensor,
        key: Tensor,
        value: Tensor,
        grad_out: Tensor,
        out: Tensor,
        log_sums: Tensor,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        grad_out = grad_out.contiguous()
        *grads, row_sums = choose_implementation(query).compute_gradient(
            query, key, value, grad_out, out, log_sums, scale
        )
        ctx.save_for_backward(query, key, value, grad_out, log_sums, row_sums)
        ctx.scale = scale
        return tuple(grads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_query: Tensor, to_key: Tensor, to_value: Tensor) -> Any:  # noqa: ANN401
        """Return the adjoints of `Q`, `K`, `V` and `dO` from those of `dQ`, `dK` and `dV`."""
        adjoints = (x.contiguous() for x in (to_query, to_key, to_value))
        implementation = choose_implementation(ctx.saved_tensors[0])
        grads = implementation.compute_second_derivative(*ctx.saved_tensors, *adjoints, ctx.scale)
        return *grads, None, None, None


def choose_implementation(query: Tensor) -> ModuleType:
    """Return the module that computes attention: kernels where a GPU may round products to TF32."""
    rounded = torch.get_float32_matmul_precision() != "highest"
    fits = query.dtype == torch.float32 and query.shape[2] in KERNEL_WIDTHS
    if query.is_cuda and rounded and fits and has_triton():
        return import_module("gradmem_core.attention.kernels")
    return blocks


@cache
def has_triton() -> bool:
    """Return true if Triton is installed, as it is with torch's builds for a GPU on Linux."""
    return find_spec("triton") is not None
