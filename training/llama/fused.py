"""Pieces of a transformer's layer whose first and second derivatives are written out.

torch differentiates twice what is made of its own operations, but by many elementwise passes, each
a launch on a GPU and each kept for the second time. Here every derivative is one pass over its
inputs (a function of `Passes`, which a compiler can turn into one kernel) beside the matrix
products.

Shapes: `B` batch, `T` tokens, `d` width, `f` width inside, `H` heads, `G` key-value heads, `w`
width of a head, `r` rank. Attention: `N` is `B` times `G`, `R` is `T` times the `H / G` query heads
that share a key-value head, head after head.
"""

import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Heads = tuple[Tensor, Tensor, Tensor]
Backend = str | Callable[..., Any]
Pass = Callable[..., Any]
"Elementwise work with sums over rows: tensors and numbers to a tensor or some."


def normal(x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return `x` over its root mean square, and the inverse of that in float32 at least."""
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    scale = (exact.square().mean(dim=-1, keepdim=True) + epsilon).rsqrt_()  # (..., 1)
    return (exact * scale).to(x.dtype), scale


def normal_gradient(grad: Tensor, out: Tensor, scale: Tensor) -> Tensor:
    """Compute `s (g - y mean(g y))`, for `y = s x`."""
    product = (grad * out).mean(dim=-1, keepdim=True, dtype=scale.dtype)
    return torch.addcmul(grad, out, product, value=-1).mul_(scale).to(grad.dtype)


def normal_second(along: Tensor, grad: Tensor, out: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the adjoints of `g` and `x` from `v`, that of `normal_gradient`: the first is its
    gradient again, the second
    `s^2 (y (3 mean(g y) mean(v y) - mean(g v)) - v mean(g y) - g mean(v y))`."""
    dtype = scale.dtype
    of_grad = (grad * out).mean(dim=-1, keepdim=True, dtype=dtype)
    of_along = (along * out).mean(dim=-1, keepdim=True, dtype=dtype)
    both = (grad * along).mean(dim=-1, keepdim=True, dtype=dtype)
    for_grad = torch.addcmul(along, out, of_along, value=-1).mul_(scale)
    for_x = torch.addcmul(out * (3 * of_grad * of_along - both), along, of_grad, value=-1)
    for_x = for_x.addcmul_(grad, of_along, value=-1).mul_(scale.square())
    return for_grad.to(grad.dtype), for_x.to(grad.dtype)


def gated(joined: Tensor) -> Tensor:
    """Compute `silu(a) u`, for `a` and `u` side by side."""
    gate, up = joined.chunk(2, dim=-1)
    return F.silu(gate) * up


def gated_gradient(grad: Tensor, joined: Tensor) -> Tensor:
    """Compute `(g u s', g s)`, for `s = silu(a)`."""
    gate, up = joined.chunk(2, dim=-1)
    sigmoid = gate.sigmoid()
    silu = gate * sigmoid
    slope = torch.addcmul(sigmoid, silu, 1 - sigmoid)  # s'
    return torch.cat([slope.mul_(grad).mul_(up), silu.mul_(grad)], dim=-1)


def gated_second(along: Tensor, grad: Tensor, joined: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the adjoints of `g` and `(a, u)` from `(v, z)`, that of `gated_gradient`:
    `v u s' + z s`, and `(v g u s'' + z g s', v g s')`."""
    gate, up = joined.chunk(2, dim=-1)
    to_gate, to_up = along.chunk(2, dim=-1)
    sigmoid = gate.sigmoid()
    silu = gate * sigmoid
    rest = 1 - sigmoid
    slope = torch.addcmul(sigmoid, silu, rest)  # s'
    bend = rest.mul_(torch.addcmul(sigmoid + slope, sigmoid, silu, value=-1))  # s''
    for_grad = torch.addcmul(to_up * silu, to_gate * up, slope)
    for_up = to_gate * grad * slope
    for_gate = torch.addcmul(to_gate * up * bend, to_up, slope).mul_(grad)
    return for_grad, torch.cat([for_gate, for_up], dim=-1)


def heads(
    joined: Tensor, cos: Tensor, sin: Tensor, key_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Part `(B, T, (H + 2 G) w)` into queries `(B, H, T, w)`, keys and values `(B, G, T, w)`, the
    first two turned to their positions by angles with `cos` and `sin` `(B or 1, 1, T, w / 2)`."""
    width = 2 * cos.shape[-1]
    split = joined.view(*joined.shape[:2], -1, width).transpose(1, 2)  # (B, H + 2 G, T, w)
    left, right = split[:, :-key_heads].chunk(2, dim=-1)
    turned = torch.cat(
        [
            torch.addcmul(left * cos, right, sin, value=-1),
            torch.addcmul(right * cos, left, sin),
        ],
        dim=-1,
    )
    query, key = turned[:, :-key_heads], turned[:, -key_heads:]
    return query.contiguous(), key.contiguous(), split[:, -key_heads:].contiguous()


def joined_heads(query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Compute the adjoint of `heads`."""
    turned = torch.cat([query, key], dim=1)
    left, right = turned.chunk(2, dim=-1)
    split = torch.cat(
        [
            torch.addcmul(left * cos, right, sin),
            torch.addcmul(right * cos, left, sin, value=-1),
        ],
        dim=-1,
    )
    return torch.cat([split, value], dim=1).transpose(1, 2).flatten(2)


def weights(scores: Tensor, scale: float) -> Tensor:
    """Compute the causal softmax of `scale` times scores `(N, R, T)`."""
    count, _, tokens = scores.shape
    hidden = torch.ones(tokens, tokens, dtype=torch.bool, device=scores.device).triu(1)
    exact = torch.promote_types(scores.dtype, torch.float32)
    rows = scores.view(count, -1, tokens, tokens) * scale  # (N, H / G, T, T)
    softmax = rows.masked_fill_(hidden, -torch.inf).softmax(dim=-1, dtype=exact)
    return softmax.view(scores.shape).to(scores.dtype)


def scores_gradient(grad: Tensor, of: Tensor, scale: float) -> Tensor:
    """Compute `scale P (dP - rowsum(P dP))`, from `dP` and `P`."""
    exact = torch.promote_types(of.dtype, torch.float32)
    product = grad * of
    total = product.sum(dim=-1, keepdim=True, dtype=exact)
    return torch.addcmul(product, of, total, value=-1).mul_(scale).to(of.dtype)


def scores_second(
    along: Tensor, more: Tensor, grad: Tensor, of: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Compute the adjoints of the scores and of `dP` from `E`, that of `scores_gradient`,
    `F = dO z^T`, what else goes to `P`, `dP` and `P`.

    With row sums `t = rowsum(P dP)` and `m = rowsum(P E)` they are `scale (P C - P rowsum(P C))`
    for `C = F + scale (E (dP - t) - m dP)`, and `scale P (E - m)`."""
    exact = torch.promote_types(of.dtype, torch.float32)
    total = (grad * of).sum(dim=-1, keepdim=True, dtype=exact)
    mean = (along * of).sum(dim=-1, keepdim=True, dtype=exact)
    for_grad = ((along - mean) * of).mul_(scale)
    inner = torch.addcmul((grad - total).mul_(along), grad, mean, value=-1)
    weighted = torch.add(more, inner, alpha=scale).mul_(of)
    for_scores = torch.addcmul(weighted, of, weighted.sum(dim=-1, keepdim=True), value=-1)
    return for_scores.mul_(scale).to(of.dtype), for_grad.to(of.dtype)


def losses(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy `(N, 1)` of logits `(N, V)` and ids `(N, 1)`, and the logits'
    log-sum-exp."""
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    tops = exact.logsumexp(dim=-1, keepdim=True)
    return tops - exact.gather(1, ids), tops


def logits_gradient(grad: Tensor, logits: Tensor, ids: Tensor, tops: Tensor) -> Tensor:
    """Compute `g (P - 1 at the ids)`, for the softmax `P` and `g` `(N, 1)`."""
    out = (logits - tops).exp_().mul_(grad)
    return out.scatter_add_(1, ids, -grad).to(logits.dtype)


def logits_second(
    along: Tensor, grad: Tensor, logits: Tensor, ids: Tensor, tops: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the adjoints of `g` and the logits from `v`, that of `logits_gradient`: `rowsum(P v)`
    less `v` at the ids, and `g P (v - rowsum(P v))`."""
    of = (logits - tops).exp_()
    mean = (of * along).sum(dim=-1, keepdim=True)
    for_grad = mean - along.gather(1, ids)
    return for_grad, of.mul_(along - mean).mul_(grad).to(logits.dtype)


@dataclass(frozen=True)
class Passes:
    """The elementwise passes, as they are or compiled."""

    normal: Pass = normal
    normal_gradient: Pass = normal_gradient
    normal_second: Pass = normal_second
    gated: Pass = gated
    gated_gradient: Pass = gated_gradient
    gated_second: Pass = gated_second
    heads: Pass = heads
    joined_heads: Pass = joined_heads
    weights: Pass = weights
    scores_gradient: Pass = scores_gradient
    scores_second: Pass = scores_second
    losses: Pass = losses
    logits_gradient: Pass = logits_gradient
    logits_second: Pass = logits_second


PLAIN = Passes()
"torch's own operations, one after the other."


class Compiled:
    """A pass as one kernel, made when it is first called: a second or some for each.

    Where the compiler fails, it says so and goes on with torch's own operations.

    Args:
        plain: The pass.
        backend: The name of a backend of torch, or what stands in its place.
    """

    def __init__(self, plain: Pass, backend: Backend) -> None:
        self._plain = plain
        self._compute: Pass = torch.compile(plain, dynamic=True, backend=backend)

    def __call__(self, *inputs: Any) -> Any:  # noqa: ANN401
        """Compute the pass on tensors and numbers."""
        # Tensors of one kind: it would be compiled again for those with a graph.
        given = [value.detach() if isinstance(value, Tensor) else value for value in inputs]
        if self._compute is self._plain:
            return self._plain(*given)
        try:
            return self._compute(*given)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise  # the device's, not the compiler's
        except Exception as error:  # compilers' errors have no base class
            warnings.warn(f"{self._plain.__name__} is not compiled: {error}", stacklevel=2)
            self._compute = self._plain
            return self._plain(*given)


@cache
def compiled(backend: Backend = "inductor") -> Passes:
    """Return all passes `Compiled`. The usual backend needs a compiler on this machine."""
    every = [field.name for field in fields(Passes)]
    return Passes(**{name: Compiled(getattr(PLAIN, name), backend) for name in every})


def suited(device: torch.device) -> Passes:
    """Return compiled passes for a GPU, where each saves launches, if this machine can compile."""
    can_compile = device.type == "cuda" and any(map(shutil.which, ("cc", "gcc", "clang")))
    return compiled() if can_compile else PLAIN


@dataclass(frozen=True)
class Fused:
    """Pieces of a layer, differentiable twice."""

    passes: Passes = PLAIN

    def normalise(self, x: Tensor, epsilon: float) -> Tensor:
        """Divide by the root mean square (RMSNorm without weights): `(..., d)`."""
        return cast("Tensor", _Normal.apply(x, epsilon, self.passes))  # type: ignore[no-untyped-call]

    def gate(self, joined: Tensor) -> Tensor:
        """Compute SwiGLU of gates and values side by side: `(..., 2 f)` -> `(..., f)`."""
        return _Gated.apply(joined, self.passes)  # type: ignore[no-any-return, no-untyped-call]

    def heads(
        self, joined: Tensor, cos: Tensor, sin: Tensor, key_heads: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Part a joined projection into queries, keys and values at their positions.

        Args:
            joined: `(B, T, (H + 2 G) w)`.
            cos: Of the angles by which halves of a head are turned, `(B or 1, 1, T, w / 2)`.
            sin: Of the same.
            key_heads: `G`.

        Returns:
            `(B, H, T, w)`, and `(B, G, T, w)` twice.
        """
        return _Heads.apply(joined, cos, sin, key_heads, self.passes)  # type: ignore[no-any-return, no-untyped-call]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attend causally with all weights in memory, for short sequences.

        Args:
            query: `(B, H, T, w)`, contiguous.
            key: `(B, G, T, w)`, contiguous.
            value: `(B, G, T, w)`, contiguous.
            scale: What products of queries and keys are multiplied by.

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
        out = _Losses.apply(logits.flatten(0, -2), ids.reshape(-1, 1), self.passes)  # type: ignore[no-untyped-call]
        return cast("Tensor", out).view(ids.shape)


def low_rank_linear(
    x: Tensor, weight: Tensor, down: Tensor, up: Tensor, parts: Sequence[int]
) -> Tensor:
    """Compute `x W^T` for a constant `W` that holds products of `up` and `down`.

    Their gradients are taken from `x` and the output's gradient by products of rank `r`, without
    `W`'s. A pass with `create_graph` gives a gradient to `x` only: WRITE asks for no more.

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


class _Normal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, epsilon: float, passes: Passes) -> Tensor:  # noqa: ANN401
        out, scale = cast("tuple[Tensor, Tensor]", passes.normal(x, epsilon))
        ctx.save_for_backward(x, out, scale)
        ctx.passes = passes
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # noqa: ANN401
        x, out, scale = ctx.saved_tensors
        return _NormalGradient.apply(grad, x, out.detach(), scale, ctx.passes), None, None  # type: ignore[no-untyped-call]


class _NormalGradient(torch.autograd.Function):
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
        return cast("Tensor", passes.normal_gradient(grad, out, scale))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along: Tensor) -> Any:  # noqa: ANN401
        return *ctx.passes.normal_second(along, *ctx.saved_tensors), None, None, None


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, joined: Tensor, passes: Passes) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(joined)
        ctx.passes = passes
        return passes.gated(joined)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # noqa: ANN401
        return _GatedGradient.apply(grad, *ctx.saved_tensors, ctx.passes), None  # type: ignore[no-untyped-call]


class _GatedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, joined: Tensor, passes: Passes) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(grad, joined)
        ctx.passes = passes
        return passes.gated_gradient(grad, joined)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along: Tensor) -> Any:  # noqa: ANN401
        return *ctx.passes.gated_second(along, *ctx.saved_tensors), None


class _Heads(torch.autograd.Function):
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
        return cast("Heads", passes.heads(joined, cos, sin, key_heads))

    @staticmethod
    def backward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Any:  # noqa: ANN401
        joined = _JoinedHeads.apply(query, key, value, *ctx.saved_tensors, ctx.passes)  # type: ignore[no-untyped-call]
        return joined, None, None, None, None


class _JoinedHeads(torch.autograd.Function):
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
        return passes.joined_heads(query, key, value, cos, sin)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along: Tensor) -> Any:  # noqa: ANN401
        return *ctx.passes.heads(along, *ctx.saved_tensors, ctx.key_heads), None, None, None


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
        of = passes.weights(torch.bmm(query, key.mT), scale)  # P, (N, R, T)
        ctx.save_for_backward(query, key, value, of)
        ctx.scale, ctx.passes = scale, passes
        return torch.bmm(of, value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # noqa: ANN401
        grads = _AttentionGradient.apply(grad, *ctx.saved_tensors, ctx.scale, ctx.passes)  # type: ignore[no-untyped-call]
        return *grads, None, None


class _AttentionGradient(torch.autograd.Function):
    """`dV = P^T dO`, and with `dS = scale P (dO V^T - rowsum(P dO V^T))`, `dQ = dS K` and
    `dK = dS^T Q`."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        of: Tensor,
        scale: float,
        passes: Passes,
    ) -> tuple[Tensor, Tensor, Tensor]:
        to_weights = torch.bmm(grad, value.mT)  # dP
        to_scores = passes.scores_gradient(to_weights, of, scale)  # dS
        ctx.save_for_backward(grad, query, key, value, of, to_weights, to_scores)
        ctx.scale, ctx.passes = scale, passes
        to_key, to_value = torch.bmm(to_scores.mT, query), torch.bmm(of.mT, grad)
        return torch.bmm(to_scores, key), to_key, to_value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_query: Tensor, to_key: Tensor, to_value: Tensor) -> Any:  # noqa: ANN401
        """Compute the adjoints of `dO`, `Q`, `K` and `V` from those of `dQ`, `dK` and `dV`."""
        grad, query, key, value, of, to_weights, to_scores = ctx.saved_tensors
        along = torch.baddbmm(torch.bmm(to_query, key.mT), query, to_key.mT)  # the adjoint of dS
        more = torch.bmm(grad, to_value.mT)
        for_scores, for_weights = ctx.passes.scores_second(along, more, to_weights, of, ctx.scale)
        for_grad = torch.baddbmm(torch.bmm(of, to_value), for_weights, value)
        for_query = torch.baddbmm(torch.bmm(for_scores, key), to_scores, to_key)
        for_key = torch.baddbmm(torch.bmm(for_scores.mT, query), to_scores.mT, to_query)
        for_value = torch.bmm(for_weights.mT, grad)
        return for_grad, for_query, for_key, for_value, None, None, None


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, passes: Passes) -> Tensor:  # noqa: ANN401
        out, tops = cast("tuple[Tensor, Tensor]", passes.losses(logits, ids))
        ctx.save_for_backward(logits, ids, tops)
        ctx.passes = passes
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # noqa: ANN401
        return _LogitsGradient.apply(grad, *ctx.saved_tensors, ctx.passes), None, None  # type: ignore[no-untyped-call]


class _LogitsGradient(torch.autograd.Function):
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
        return cast("Tensor", passes.logits_gradient(grad, logits, ids, tops))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along: Tensor) -> Any:  # noqa: ANN401
        return *ctx.passes.logits_second(along, *ctx.saved_tensors), None, None, None


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
        to_x = _LowRankGradient.apply(grad, weight, down, up, ctx.parts)  # type: ignore[no-untyped-call]
        if torch.is_grad_enabled():
            return to_x, None, None, None, None
        return to_x, None, *_factors(x, grad, down, up, ctx.parts), None


class _LowRankGradient(torch.autograd.Function):
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
        factors = _factors(along, grad, down, up, ctx.parts)
        return F.linear(along, weight), None, *factors, None


def _factors(
    x: Tensor, grad: Tensor, down: Tensor, up: Tensor, parts: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Compute gradients of every part's factors: `B^T dW`, `dW A^T` for `dW = dY^T X`."""
    rows, sizes = x.flatten(0, -2), list(parts)
    to_parts, ups = torch.split(grad.flatten(0, -2), sizes, dim=1), torch.split(up, sizes)
    inner = torch.cat([to_part @ b for to_part, b in zip(to_parts, ups, strict=True)], dim=1)
    mapped = torch.split(F.linear(rows, down), up.shape[1], dim=1)  # (rows, r) of each part
    to_up = torch.cat([to_part.mT @ z for to_part, z in zip(to_parts, mapped, strict=True)])
    return inner.mT @ rows, to_up
