"""Elementwise passes of a transformer layer with their derivatives, plain or compiled.

Each is one pass over its inputs, which a compiler can turn into one kernel. `..._backward` computes
the gradient of a pass, `..._double_backward` the gradient of that. Shapes: see fused.py.
"""

import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gradmem_core.attention import has_triton

Backend = str | Callable[..., Any]
Pass = Callable[..., Any]
"Elementwise work with sums over rows, from tensors and numbers to one tensor or several."


def rms_norm(x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return `x` over its root mean square, and the inverse of that in float32 at least."""
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    scale = (exact.square().mean(dim=-1, keepdim=True) + epsilon).rsqrt_()  # (..., 1)
    return (exact * scale).to(x.dtype), scale


def rms_norm_backward(grad: Tensor, out: Tensor, scale: Tensor) -> Tensor:
    """Compute `s (g - y mean(g y))`, for `y = s x`."""
    product = (grad * out).mean(dim=-1, keepdim=True, dtype=scale.dtype)
    return torch.addcmul(grad, out, product, value=-1).mul_(scale).to(grad.dtype)


def rms_norm_double_backward(
    along: Tensor, grad: Tensor, out: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the adjoints of `g` and `x` from `v`, that of `rms_norm_backward`: the first is its
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


def swiglu(joined: Tensor) -> Tensor:
    """Compute `silu(a) u`, for `a` and `u` side by side."""
    gate, up = joined.chunk(2, dim=-1)
    return F.silu(gate) * up


def swiglu_backward(grad: Tensor, joined: Tensor) -> Tensor:
    """Compute `(g u s', g s)`, for `s = silu(a)`."""
    gate, up = joined.chunk(2, dim=-1)
    sigmoid = gate.sigmoid()
    silu = gate * sigmoid
    slope = torch.addcmul(sigmoid, silu, 1 - sigmoid)  # s'
    return torch.cat([slope.mul_(grad).mul_(up), silu.mul_(grad)], dim=-1)


def swiglu_double_backward(along: Tensor, grad: Tensor, joined: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the adjoints of `g` and `(a, u)` from `(v, z)`, that of `swiglu_backward`:
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


def split_heads(
    joined: Tensor, cos: Tensor, sin: Tensor, key_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Split `(B, T, (H + 2 G) w)` into queries `(B, H, T, w)`, keys and values `(B, G, T, w)`, the
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


def join_heads(query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Compute the adjoint of `split_heads`."""
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


def causal_softmax(scores: Tensor, scale: float) -> Tensor:
    """Compute the causal softmax of `scale` times scores `(N, R, T)`."""
    count, _, tokens = scores.shape
    hidden = torch.ones(tokens, tokens, dtype=torch.bool, device=scores.device).triu(1)
    exact = torch.promote_types(scores.dtype, torch.float32)
    rows = scores.view(count, -1, tokens, tokens) * scale  # (N, H / G, T, T)
    softmax = rows.masked_fill_(hidden, -torch.inf).softmax(dim=-1, dtype=exact)
    return softmax.view(scores.shape).to(scores.dtype)


def softmax_backward(grad: Tensor, softmax: Tensor, scale: float) -> Tensor:
    """Compute `scale P (dP - rowsum(P dP))`, from `dP` and `P`."""
    exact = torch.promote_types(softmax.dtype, torch.float32)
    product = grad * softmax
    total = product.sum(dim=-1, keepdim=True, dtype=exact)
    return torch.addcmul(product, softmax, total, value=-1).mul_(scale).to(softmax.dtype)


def softmax_double_backward(
    along: Tensor, more: Tensor, grad: Tensor, softmax: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Compute the adjoints of the scores and of `dP` from `E`, that of `softmax_backward`,
    `F = dO z^T`, what else goes to `P`, `dP` and `P`.

    With row sums `t = rowsum(P dP)` and `m = rowsum(P E)` they are `scale (P C - P rowsum(P C))`
    for `C = F + scale (E (dP - t) - m dP)`, and `scale P (E - m)`."""
    exact = torch.promote_types(softmax.dtype, torch.float32)
    total = (grad * softmax).sum(dim=-1, keepdim=True, dtype=exact)
    mean = (along * softmax).sum(dim=-1, keepdim=True, dtype=exact)
    for_grad = ((along - mean) * softmax).mul_(scale)
    inner = torch.addcmul((grad - total).mul_(along), grad, mean, value=-1)
    weighted = torch.add(more, inner, alpha=scale).mul_(softmax)
    for_scores = torch.addcmul(weighted, softmax, weighted.sum(dim=-1, keepdim=True), value=-1)
    return for_scores.mul_(scale).to(softmax.dtype), for_grad.to(softmax.dtype)


def cross_entropy(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy `(N, 1)` of logits `(N, V)` and ids `(N, 1)`, and the logits'
    log-sum-exp."""
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    tops = exact.logsumexp(dim=-1, keepdim=True)
    return tops - exact.gather(1, ids), tops


def cross_entropy_backward(grad: Tensor, logits: Tensor, ids: Tensor, tops: Tensor) -> Tensor:
    """Compute `g (P - 1 at the ids)`, for the softmax `P` and `g` `(N, 1)`."""
    out = (logits - tops).exp_().mul_(grad)
    return out.scatter_add_(1, ids, -grad).to(logits.dtype)


def cross_entropy_double_backward(
    along: Tensor, grad: Tensor, logits: Tensor, ids: Tensor, tops: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the adjoints of `g` and the logits from `v`, that of `cross_entropy_backward`:
    `rowsum(P v)` less `v` at the ids, and `g P (v - rowsum(P v))`."""
    softmax = (logits - tops).exp_()
    mean = (softmax * along).sum(dim=-1, keepdim=True)
    for_grad = mean - along.gather(1, ids)
    return for_grad, softmax.mul_(along - mean).mul_(grad).to(logits.dtype)


@dataclass(frozen=True)
class Passes:
    """The elementwise passes, plain or compiled."""

    rms_norm: Pass = rms_norm
    rms_norm_backward: Pass = rms_norm_backward
    rms_norm_double_backward: Pass = rms_norm_double_backward
    swiglu: Pass = swiglu
    swiglu_backward: Pass = swiglu_backward
    swiglu_double_backward: Pass = swiglu_double_backward
    split_heads: Pass = split_heads
    join_heads: Pass = join_heads
    causal_softmax: Pass = causal_softmax
    softmax_backward: Pass = softmax_backward
    softmax_double_backward: Pass = softmax_double_backward
    cross_entropy: Pass = cross_entropy
    cross_entropy_backward: Pass = cross_entropy_backward
    cross_entropy_double_backward: Pass = cross_entropy_double_backward


PLAIN = Passes()
"torch's own operations, one after the other."
KERNELS = (
    "rms_norm",
    "rms_norm_backward",
    "rms_norm_double_backward",
    "swiglu",
    "swiglu_backward",
    "swiglu_double_backward",
    "split_heads",
    "join_heads",
)
"The passes that kernels.py has."


class CompiledPass:
    """A pass compiled into one kernel when it is first called, which takes a second or more.

    Where the compiler fails, it warns and falls back on torch's own operations.

    Args:
        plain: The pass.
        backend: A backend of `torch.compile`, by name or as a function.
    """

    def __init__(self, plain: Pass, backend: Backend) -> None:
        self._plain = plain
        self._compute: Pass = torch.compile(plain, dynamic=True, backend=backend)

    def __call__(self, *inputs: Any) -> Any:  # noqa: ANN401
        """Compute the pass on tensors and numbers."""
        # Without graphs: tensors that have one would be compiled for again.
        plain = [value.detach() if isinstance(value, Tensor) else value for value in inputs]
        if self._compute is self._plain:
            return self._plain(*plain)
        try:
            return self._compute(*plain)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise  # the device's, not the compiler's
        except Exception as error:  # compilers' errors have no base class
            warnings.warn(f"{self._plain.__name__} is not compiled: {error}", stacklevel=2)
            self._compute = self._plain
            return self._plain(*plain)


@cache
def compile_passes(backend: Backend = "inductor") -> Passes:
    """Compile all passes. The default backend needs a compiler on this machine."""
    names = [field.name for field in fields(Passes)]
    return Passes(**{name: CompiledPass(getattr(PLAIN, name), backend) for name in names})


def passes_for(device: torch.device) -> Passes:
    """Return passes that save launches on a GPU, where Triton and a C compiler are there for them:
    kernels for most, the others compiled."""
    compilers = ("cc", "gcc", "clang")
    if device.type == "cuda" and has_triton() and any(map(shutil.which, compilers)):
        kernels = import_module("training.llama.kernels")
        return replace(compile_passes(), **{name: getattr(kernels, name) for name in KERNELS})
    return PLAIN
