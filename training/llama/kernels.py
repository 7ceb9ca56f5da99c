"""The elementwise passes of passes.py as Triton kernels for a GPU.

A compiler that must take any shape makes several slow kernels of one pass that splits or joins, and
its calls take longer than the kernels. Each of these reads every input once, computes in float32
and writes every output once. Signatures, formulas and shapes: see passes.py.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 2048
"Elements of an input that a program holds at once."
MOST_COLUMNS = 1024
"Columns of such a tile, where a row may be cut."


def rms_norm(x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    x = x.contiguous()
    out, scale = torch.empty_like(x), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
    _rms_norm[_rows(x)](x, out, scale, epsilon, **_row_sizes(x))
    return out, scale


def rms_norm_backward(grad: Tensor, out: Tensor, scale: Tensor) -> Tensor:
    grad = grad.contiguous()
    for_x = torch.empty_like(grad)
    _rms_norm_backward[_rows(grad)](grad, out, scale, for_x, **_row_sizes(grad))
    return for_x


def rms_norm_double_backward(
    along: Tensor, grad: Tensor, out: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    along, grad = along.contiguous(), grad.contiguous()
    for_grad, for_x = torch.empty_like(grad), torch.empty_like(grad)
    _rms_norm_double_backward[_rows(grad)](
        along, grad, out, scale, for_grad, for_x, **_row_sizes(grad)
    )
    return for_grad, for_x


def swiglu(joined: Tensor) -> Tensor:
    joined = joined.contiguous()
    out = joined.new_empty((*joined.shape[:-1], joined.shape[-1] // 2))
    _swiglu[_tiles(out)](joined, out, **_tile_sizes(out))
    return out


def swiglu_backward(grad: Tensor, joined: Tensor) -> Tensor:
    grad, joined = grad.contiguous(), joined.contiguous()
    for_joined = torch.empty_like(joined)
    _swiglu_backward[_tiles(grad)](grad, joined, for_joined, **_tile_sizes(grad))
    return for_joined


def swiglu_double_backward(along: Tensor, grad: Tensor, joined: Tensor) -> tuple[Tensor, Tensor]:
    along, grad, joined = along.contiguous(), grad.contiguous(), joined.contiguous()
    for_grad, for_joined = torch.empty_like(grad), torch.empty_like(joined)
    _swiglu_double_backward[_tiles(grad)](
        along, grad, joined, for_grad, for_joined, **_tile_sizes(grad)
    )
    return for_grad, for_joined


def split_heads(
    joined: Tensor, cos: Tensor, sin: Tensor, key_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    joined = joined.contiguous()
    batch, tokens, size = joined.shape
    width = 2 * cos.shape[-1]
    heads = size // width - 2 * key_heads
    query = joined.new_empty(batch, heads, tokens, width)
    key, value = (joined.new_empty(batch, key_heads, tokens, width) for _ in range(2))
    _move_heads[_heads(query, key)](
        joined, query, key, value, cos, sin, **_head_sizes(query, key, cos), SPLIT=True
    )
    return query, key, value


def join_heads(query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    batch, heads, tokens, width = query.shape
    joined = query.new_empty(batch, tokens, (heads + 2 * key.shape[1]) * width)
    _move_heads[_heads(query, key)](
        joined, query, key, value, cos, sin, **_head_sizes(query, key, cos), SPLIT=False
    )
    return joined


def _row_sizes(x: Tensor) -> dict[str, Any]:
    """Return the arguments of a kernel over whole rows of `(..., d)`."""
    width = x.shape[-1]
    columns = triton.next_power_of_2(width)
    return {"count": x.numel() // width, "width": width, "D": columns, "R": _fit_rows(columns)}


def _rows(x: Tensor) -> tuple[int]:
    sizes = _row_sizes(x)
    return (triton.cdiv(sizes["count"], sizes["R"]),)


def _tile_sizes(x: Tensor) -> dict[str, Any]:
    """Return the arguments of a kernel over tiles of `(..., f)`."""
    width = x.shape[-1]
    columns = min(triton.next_power_of_2(width), MOST_COLUMNS)
    return {"count": x.numel() // width, "width": width, "C": columns, "R": _fit_rows(columns)}


def _tiles(x: Tensor) -> tuple[int, int]:
    sizes = _tile_sizes(x)
    return triton.cdiv(sizes["count"], sizes["R"]), triton.cdiv(sizes["width"], sizes["C"])


def _head_sizes(query: Tensor, key: Tensor, cos: Tensor) -> dict[str, Any]:
    """Return the arguments of the kernel over heads."""
    half = cos.shape[-1]
    columns = triton.next_power_of_2(half)
    return {
        "angles_stride": 0 if len(cos) == 1 else cos.stride(0),
        "tokens": query.shape[2],
        "heads": query.shape[1],
        "key_heads": key.shape[1],
        "half": half,
        "W": columns,
        "R": _fit_rows(columns),
    }


def _heads(query: Tensor, key: Tensor) -> tuple[int, int, int]:
    batch, heads, tokens, width = query.shape
    rows = _fit_rows(triton.next_power_of_2(width // 2))
    return batch, triton.cdiv(tokens, rows), heads + 2 * key.shape[1]


def _fit_rows(columns: int) -> int:
    """Return the rows of a tile."""
    return max(1, min(64, TILE // columns))


@triton.jit
def _load(pointer, places, mask):
    return tl.load(pointer + places, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _place_rows(count, width, D: tl.constexpr, R: tl.constexpr):
    """Return the rows of a program, the places of their elements, and which of them exist."""
    rows = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    columns = tl.arange(0, D)
    mask = (rows[:, None] < count) & (columns[None, :] < width)
    return rows, rows[:, None] * width + columns[None, :], mask


@triton.jit
def _rms_norm(x, out, scale, epsilon, count, width, D: tl.constexpr, R: tl.constexpr):
    rows, places, mask = _place_rows(count, width, D, R)
    values = _load(x, places, mask)
    scales = tl.rsqrt(tl.sum(values * values, 1) / width + epsilon)
    tl.store(out + places, values * scales[:, None], mask=mask)
    tl.store(scale + rows, scales, mask=rows < count)


@triton.jit
def _rms_norm_backward(grad, out, scale, for_x, count, width, D: tl.constexpr, R: tl.constexpr):
    rows, places, mask = _place_rows(count, width, D, R)
    g, y = _load(grad, places, mask), _load(out, places, mask)
    s = _load(scale, rows, rows < count)
    of_grad = tl.sum(g * y, 1) / width
    tl.store(for_x + places, s[:, None] * (g - y * of_grad[:, None]), mask=mask)


@triton.jit
def _rms_norm_double_backward(
    along, grad, out, scale, for_grad, for_x, count, width, D: tl.constexpr, R: tl.constexpr
):
    rows, places, mask = _place_rows(count, width, D, R)
    v, g, y = _load(along, places, mask), _load(grad, places, mask), _load(out, places, mask)
    s = _load(scale, rows, rows < count)
    of_grad = tl.sum(g * y, 1) / width
    of_along = tl.sum(v * y, 1) / width
    both = tl.sum(g * v, 1) / width
    tl.store(for_grad + places, s[:, None] * (v - y * of_along[:, None]), mask=mask)
    x = y * (3 * of_grad * of_along - both)[:, None]
    x = (x - v * of_grad[:, None] - g * of_along[:, None]) * (s * s)[:, None]
    tl.store(for_x + places, x, mask=mask)


@triton.jit
def _place_tile(count, width, C: tl.constexpr, R: tl.constexpr):
    """Return the places of a tile's elements, those of the gates beside values, and which exist."""
    rows = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    columns = tl.program_id(1) * C + tl.arange(0, C)
    mask = (rows[:, None] < count) & (columns[None, :] < width)
    places = rows[:, None] * width + columns[None, :]
    return places, rows[:, None] * (2 * width) + columns[None, :], mask


@triton.jit
def _swiglu(joined, out, count, width, C: tl.constexpr, R: tl.constexpr):
    places, gates, mask = _place_tile(count, width, C, R)
    gate, up = _load(joined, gates, mask), _load(joined, gates + width, mask)
    tl.store(out + places, gate * tl.sigmoid(gate) * up, mask=mask)


@triton.jit
def _swiglu_backward(grad, joined, for_joined, count, width, C: tl.constexpr, R: tl.constexpr):
    places, gates, mask = _place_tile(count, width, C, R)
    g = _load(grad, places, mask)
    gate, up = _load(joined, gates, mask), _load(joined, gates + width, mask)
    sigmoid = tl.sigmoid(gate)
    silu = gate * sigmoid
    slope = sigmoid + silu * (1 - sigmoid)
    tl.store(for_joined + gates, g * up * slope, mask=mask)
    tl.store(for_joined + gates + width, g * silu, mask=mask)


@triton.jit
def _swiglu_double_backward(
    along, grad, joined, for_grad, for_joined, count, width, C: tl.constexpr, R: tl.constexpr
):
    places, gates, mask = _place_tile(count, width, C, R)
    g = _load(grad, places, mask)
    gate, up = _load(joined, gates, mask), _load(joined, gates + width, mask)
    to_gate, to_up = _load(along, gates, mask), _load(along, gates + width, mask)
    sigmoid = tl.sigmoid(gate)
    silu = gate * sigmoid
    slope = sigmoid + silu * (1 - sigmoid)
    bend = (1 - sigmoid) * (sigmoid + slope - sigmoid * silu)
    tl.store(for_grad + places, to_gate * up * slope + to_up * silu, mask=mask)
    tl.store(for_joined + gates, g * (to_gate * up * bend + to_up * slope), mask=mask)
    tl.store(for_joined + gates + width, g * to_gate * slope, mask=mask)


@triton.jit
def _move_head(together, apart, together_places, places, half, c, s, mask, SPLIT: tl.constexpr):
    """Move the halves of a head, and turn them by angles with cosines `c` and sines `s`."""
    if SPLIT:
        left = _load(together, together_places, mask)
        right = _load(together, together_places + half, mask)
        tl.store(apart + places, left * c - right * s, mask=mask)
        tl.store(apart + places + half, right * c + left * s, mask=mask)
    else:
        left, right = _load(apart, places, mask), _load(apart, places + half, mask)
        tl.store(together + together_places, left * c + right * s, mask=mask)
        tl.store(together + together_places + half, right * c - left * s, mask=mask)


@triton.jit
def _move_heads(
    joined,
    query,
    key,
    value,
    cos,
    sin,
    angles_stride,
    tokens,
    heads,
    key_heads,
    half,
    W: tl.constexpr,
    R: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """Move a head's tokens between the joined projection and its own tensor."""
    sample = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * R + tl.arange(0, R)
    head = tl.program_id(2)
    columns = tl.arange(0, W)
    mask = (rows[:, None] < tokens) & (columns[None, :] < half)
    together = (sample * tokens + rows)[:, None] * ((heads + 2 * key_heads) * 2 * half)
    together += head * 2 * half + columns[None, :]
    places = rows[:, None] * (2 * half) + columns[None, :]
    size = tokens * 2 * half  # of a head
    angles = sample * angles_stride + rows[:, None] * half + columns[None, :]
    turned = mask & (head < heads + key_heads)
    c = tl.load(cos + angles, mask=turned, other=1.0).to(tl.float32)
    s = tl.load(sin + angles, mask=turned, other=0.0).to(tl.float32)
    if head < heads:
        own = places + (sample * heads + head) * size
        _move_head(joined, query, together, own, half, c, s, mask, SPLIT)
    elif head < heads + key_heads:
        own = places + (sample * key_heads + head - heads) * size
        _move_head(joined, key, together, own, half, c, s, mask, SPLIT)
    else:
        own = places + (sample * key_heads + head - heads - key_heads) * size
        _move_head(joined, value, together, own, half, c, s, mask, SPLIT)
