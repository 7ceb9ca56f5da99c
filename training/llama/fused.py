"""Pieces of a transformer layer whose first and second derivatives are written out.

torch differentiates its own operations twice, but by many elementwise passes, each of which is a
launch on a GPU and keeps its inputs for the second time. Here every derivative is one pass over its
inputs (see passes.py) beside the matrix products.

Shapes: `B` batch, `T` tokens, `d` width, `f` width inside, `H` heads, `G` key-value heads, `w`
width of a head, `r` rank. Attention: `N` is `B` times `G`, `R` is `T` times the `H / G` query heads
that share a key-value head, head after head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from training.llama.passes import PLAIN, Passes

Heads = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Fused:
    """Pieces of a transformer layer, differentiable twice."""

    passes: Passes = PLAIN

    def normalise(self, x: Tensor, epsilon: float) -> Tensor:
        """Divide by the root mean square (RMSNorm without weights): `(..., d)`."""
        return cast("Tensor", _RmsNorm.apply(x, epsilon, self.passes))  # type: ignore[no-untyped-call]

    def gate(self, joined: Tensor) -> Tensor:
        """Compute SwiGLU of gates and values side by side: `(..., 2 f)` -> `(..., f)`."""
        return _Swiglu.apply(joined, self.passes)  # type: ignore[no-any-return, no-untyped-call]

    def heads(
        self, joined: Tensor, cos: Tensor, sin: Tensor, key_heads: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Split a joined projection into queries, keys and values at their positions.

        Args:
            joined: `(B, T, (H + 2 G) w)`.
            cos: Cosines of the angles that rotate a head's halves, `(B or 1, 1, T, w / 2)`.
            sin: Their sines.
            key_heads: `G`.

        Returns:
            `(B, H, T, w)`, and `(B, G, T, w)` twice.
        """
        return _SplitHeads.apply(joined, cos, sin, key_heads, self.passes)  # type: ignore[no-any-return, no-untyped-call]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attend causally with all weights in memory, for short sequences.

        Args:
            query: `(B, H, T, w)`, contiguous.
            key: `(B, G, T, w)`, contiguous.
            value: `(B, G, T, w)`, contiguous.
            scale: Factor of the products of queries and keys.

        Returns:
            `(B, H, T, w)`.
        """
        batch, count, tokens, width = query.shape
        q = query.view(batch * key.shape[1], -1, width)
        k, v = (part.view(-1, tokens, width) for part in (key, value))
        out = _Attention.apply(q, k, v, scale, self.passes)  # type: ignore[no-untyped-call]
        return cast("Tensor", out).view(batch, count, tokens, width)

    def token_losses(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Compute the cross-entropy, keeping nothing but the logits.

        Args:
            logits: `(..., V)`.
            ids: `(...)`.

        Returns:
            `(...)`, in float32 at least.
        """
        out = _CrossEntropy.apply(logits.flatten(0, -2), ids.reshape(-1, 1), self.passes)  # type: ignore[no-untyped-call]
        return cast("Tensor", out).view(ids.shape)


def low_rank_linear(
    x: Tensor, weight: Tensor, down: Tensor, up: Tensor, parts: Sequence[int]
) -> Tensor:
    """Compute `x W^T` for a constant `W` that holds products of `up` and `down`.

    Their gradients come from `x` and the output's gradient by products of rank `r`, without the
    gradient of `W`. With `create_graph`, only `x` gets a gradient: WRITE needs no more.

    Args:
        x: `(..., i)`.
        weight: `(o, i)`: the rows of all parts, one part after the other.
        down: The parts' `(r, i)`, one above the other.
        up: The parts' `(o, r)`, one above the other.
        parts: Outputs of each part.

    Returns:
        `(..., o)`.
    """
    return _LowRank.apply(x, weight, down, up, parts)  # type: ignore[no-any-return, no-untyped-call]


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, epsilon: float, passes: Passes) -> Tensor:  # noqa: ANN401
        out, scale = cast("tuple[Tensor, Tensor]", passes.rms_norm(x, epsilon))
        ctx.save_for_backward(x, out, scale)
        ctx.passes = passes
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # noqa: ANN401
        x, out, scale = ctx.saved_tensors
        return _RmsNormBackward.apply(grad, x, out.detach(), scale, ctx.passes), None, None  # type: ignore[no-untyped-call]


class _RmsNormBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        grad: Tensor,
        x: Tensor,  # noqa: ARG004 (the output and its scale follow from it)
        out: Tensor,
        scale: Tensor,
        passes: Passes,
    ) -> Tensor:
        ctx.save_for_backward(grad, out, scale)
        ctx.passes = passes
        return cast("Tensor", passes.rms_norm_backward(grad, out, scale))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along: Tensor) -> Any:  # noqa: ANN401
        return *ctx.passes.rms_norm_double_backward(along, *ctx.saved_tensors), None, None, None


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, joined: Tensor, passes: Passes) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(joined)
        ctx.passes = passes
        return passes.swiglu(joined)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # noqa: ANN401
        return _SwigluBackward.apply(grad, *ctx.saved_tensors, ctx.passes), None  # type: ignore[no-untyped-call]


class _SwigluBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, joined: Tensor, passes: Passes) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(grad, joined)
        ctx.passes = passes
        return passes.swiglu_backward(grad, joined)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along: Tensor) -> Any:  # noqa: ANN401
        return *ctx.passes.swiglu_double_backward(along, *ctx.saved_tensors), None


class _SplitHeads(torch.autograd.Function):
    """A linear map, so that its adjoint's derivative is itself."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        joined: Tensor,
        cos: Tensor,
        sin: Tensor,
        key_heads: int,
        passes: Passes,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        ctx.passes = passes
        return cast("Heads", passes.split_heads(joined, cos, sin, key_heads))

    @staticmethod
    def backward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Any:  # noqa: ANN401
        joined = _JoinHeads.apply(query, key, value, *ctx.saved_tensors, ctx.passes)  # type: ignore[no-untyped-call]
        return joined, None, None, None, None


class _JoinHeads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cos: Tensor,
        sin: Tensor,
        passes: Passes,
    ) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.key_heads, ctx.passes = key.shape[1], passes
        return passes.join_heads(query, key, value, cos, sin)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along: Tensor) -> Any:  # noqa: ANN401
        return *ctx.passes.split_heads(along, *ctx.saved_tensors, ctx.key_heads), None, None, None


class _Attention(torch.autograd.Function):
    """`O = P V` with `P = softmax(scale Q K^T)`."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        passes: Passes,
    ) -> Tensor:
        softmax = passes.causal_softmax(torch.bmm(query, key.mT), scale)  # P, (N, R, T)
        ctx.save_for_backward(query, key, value, softmax)
        ctx.scale, ctx.passes = scale, passes
        return torch.bmm(softmax, value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # noqa: ANN401
        grads = _AttentionBackward.apply(grad, *ctx.saved_tensors, ctx.scale, ctx.passes)  # type: ignore[no-untyped-call]
        return *grads, None, None


class _AttentionBackward(torch.autograd.Function):
    """`dV = P^T dO`, and with `dS = scale P (dO V^T - rowsum(P dO V^T))`, `dQ = dS K` and
    `dK = dS^T Q`."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        softmax: Tensor,
        scale: float,
        passes: Passes,
    ) -> tuple[Tensor, Tensor, Tensor]:
        to_weights = torch.bmm(grad, value.mT)  # dP
        to_scores = passes.softmax_backward(to_weights, softmax, scale)  # dS
        ctx.save_for_backward(grad, query, key, value, softmax, to_weights, to_scores)
        ctx.scale, ctx.passes = scale, passes
        to_key, to_value = torch.bmm(to_scores.mT, query), torch.bmm(softmax.mT, grad)
        return torch.bmm(to_scores, key), to_key, to_value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_query: Tensor, to_key: Tensor, to_value: Tensor) -> Any:  # noqa: ANN401
        """Compute the adjoints of `dO`, `Q`, `K` and `V` from those of `dQ`, `dK` and `dV`."""
        grad, query, key, value, softmax, to_weights, to_scores = ctx.saved_tensors
        along = torch.baddbmm(torch.bmm(to_query, key.mT), query, to_key.mT)  # the adjoint of dS
        more = torch.bmm(grad, to_value.mT)
        for_scores, for_weights = ctx.passes.softmax_double_backward(
            along, more, to_weights, softmax, ctx.scale
        )
        for_grad = torch.baddbmm(torch.bmm(softmax, to_value), for_weights, value)
        for_query = torch.baddbmm(torch.bmm(for_scores, key), to_scores, to_key)
        for_key = torch.baddbmm(torch.bmm(for_scores.mT, query), to_scores.mT, to_query)
        for_value = torch.bmm(for_weights.mT, grad)
        return for_grad, for_query, for_key, for_value, None, None, None


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, passes: Passes) -> Tensor:  # noqa: ANN401
        out, tops = cast("tuple[Tensor, Tensor]", passes.cross_entropy(logits, ids))
        ctx.save_for_backward(logits, ids, tops)
        ctx.passes = passes
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # noqa: ANN401
        return _CrossEntropyBackward.apply(grad, *ctx.saved_tensors, ctx.passes), None, None  # type: ignore[no-untyped-call]


class _CrossEntropyBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        grad: Tensor,
        logits: Tensor,
        ids: Tensor,
        tops: Tensor,
        passes: Passes,
    ) -> Tensor:
        ctx.save_for_backward(grad, logits, ids, tops)
        ctx.passes = passes
        return cast("Tensor", passes.cross_entropy_backward(grad, logits, ids, tops))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along: Tensor) -> Any:  # noqa: ANN401
        return (
            *ctx.passes.cross_entropy_double_backward(along, *ctx.saved_tensors),
            None,
            None,
            None,
        )


class _LowRank(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        weight: Tensor,
        down: Tensor,
        up: Tensor,
        parts: Sequence[int],
    ) -> Tensor:
        ctx.save_for_backward(x, weight, down, up)
        ctx.parts = parts
        return F.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # noqa: ANN401
        x, weight, down, up = ctx.saved_tensors
        to_x = _LowRankBackward.apply(grad, weight, down, up, ctx.parts)  # type: ignore[no-untyped-call]
        if torch.is_grad_enabled():
            return to_x, None, None, None, None
        return to_x, None, *_differentiate_factors(x, grad, down, up, ctx.parts), None


class _LowRankBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        grad: Tensor,
        weight: Tensor,
        down: Tensor,
        up: Tensor,
        parts: Sequence[int],
    ) -> Tensor:
        ctx.save_for_backward(grad, weight, down, up)
        ctx.parts = parts
        return grad @ weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along: Tensor) -> Any:  # noqa: ANN401
        grad, weight, down, up = ctx.saved_tensors
        factors = _differentiate_factors(along, grad, down, up, ctx.parts)
        return F.linear(along, weight), None, *factors, None


def _differentiate_factors(
    x: Tensor, grad: Tensor, down: Tensor, up: Tensor, parts: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of the factors of all parts: `B^T dW`, `dW A^T` for `dW = dY^T X`."""
    rows, sizes = x.flatten(0, -2), list(parts)
    to_parts, ups = torch.split(grad.flatten(0, -2), sizes, dim=1), torch.split(up, sizes)
    inner = torch.cat([to_part @ b for to_part, b in zip(to_parts, ups, strict=True)], dim=1)
    mapped = torch.split(F.linear(rows, down), up.shape[1], dim=1)  # (rows, r) of each part
    to_up = torch.cat([to_part.mT @ z for to_part, z in zip(to_parts, mapped, strict=True)])
    return inner.mT @ rows, to_up
