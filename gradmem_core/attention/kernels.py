"""Attention and its derivatives as Triton kernels: no block of a `(T, T)` matrix leaves the chip.

Rows and columns are taken in blocks, as in FlashAttention (Dao, arXiv 2307.08691); the second
derivative goes the same way. Every sum has one order, so that results repeat to the bit.

Matrix products round their inputs to TF32. Shapes: `N` batch times heads, `T` tokens, `w` width of
a head, a power of two of at least 16. Tensors are contiguous and float32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 64
"Rows and columns of a block."
SMALL_BLOCK = 32
"Columns of a row's block, or rows of a column's, where many tiles are held at once."
LOG2_E = tl.constexpr(1.4426950408889634)

Sizes = dict[str, int]
"Options that a kernel is compiled for."


def compute_forward(
    query: Tensor, key: Tensor, value: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Compute attention.

    Returns:
        The output `(N, T, w)`, and the logarithms of the sums of its softmax `(N, T)`.
    """
    out, log_sums = torch.empty_like(query), query.new_empty(query.shape[:2])
    _forward[_grid(query)](
        query, key, value, out, log_sums, scale, query.shape[1], **_sizes(query, BLOCK, BLOCK)
    )
    return out, log_sums


def compute_gradient(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grad_out: Tensor,
    out: Tensor,
    log_sums: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of attention.

    Returns:
        `dQ`, `dK` and `dV`, each `(N, T, w)`, and `rowsum(dO * O)`, `(N, T)`.
    """
    inputs = (query, key, value, grad_out)
    row_sums = torch.empty_like(log_sums)
    grad_query, grad_key, grad_value = (torch.empty_like(query) for _ in range(3))
    common = (scale, query.shape[1])
    sizes = _sizes(query, BLOCK, BLOCK)
    _gradient_of_rows[_grid(query)](*inputs, out, log_sums, row_sums, grad_query, *common, **sizes)
    _gradient_of_columns[_grid(query)](
        *inputs, log_sums, row_sums, grad_key, grad_value, *common, **sizes
    )
    return grad_query, grad_key, grad_value, row_sums


def compute_second_derivative(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grad_out: Tensor,
    log_sums: Tensor,
    row_sums: Tensor,
    to_query: Tensor,
    to_key: Tensor,
    to_value: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the adjoints of `Q`, `K`, `V` and `dO`, each `(N, T, w)`, from those of `dQ`, `dK`
    and `dV`."""
    inputs = (query, key, value, grad_out, to_query, to_key, to_value, log_sums, row_sums)
    for_query, for_key, for_value, for_grad_out = (torch.empty_like(query) for _ in range(4))
    means, totals = torch.empty_like(log_sums), torch.empty_like(log_sums)
    common = (scale, query.shape[1])
    _second_of_rows[_grid(query)](
        *inputs,
        means,
        totals,
        for_query,
        for_grad_out,
        *common,
        **_sizes(query, BLOCK, SMALL_BLOCK),
    )
    _second_of_columns[_grid(query)](
        *inputs, means, totals, for_key, for_value, *common, **_sizes(query, SMALL_BLOCK, BLOCK)
    )
    return for_query, for_key, for_value, for_grad_out


def _grid(query: Tensor) -> tuple[int, int]:
    """Return the programs of a kernel: one for each block of rows, or of columns."""
    return query.shape[0], triton.cdiv(query.shape[1], BLOCK)


def _sizes(query: Tensor, rows: int, columns: int) -> Sizes:
    return {"W": query.shape[2], "R": rows, "C": columns, "num_warps": 4, "num_stages": 2}


@triton.jit
def _load(pointer, base, rows, tokens, W: tl.constexpr):
    """Load vectors of width `W`, zeros past the last token."""
    places = (base + rows)[:, None] * W + tl.arange(0, W)[None, :]
    return tl.load(pointer + places, mask=rows[:, None] < tokens, other=0.0)


@triton.jit
def _store(pointer, base, rows, tokens, values, W: tl.constexpr):
    places = (base + rows)[:, None] * W + tl.arange(0, W)[None, :]
    tl.store(pointer + places, values, mask=rows[:, None] < tokens)


@triton.jit
def _weights(q, k, log_sums, rows, columns, scale):
    """Compute `P` of a block from the sums of its rows; zeros past the last row."""
    scores = tl.dot(q, tl.trans(k)) * scale
    weights = tl.exp2((scores - log_sums[:, None]) * LOG2_E)
    return tl.where(columns[None, :] <= rows[:, None], weights, 0.0)


@triton.jit
def _turned_weights(q, k, log_sums, rows, columns, scale):
    """Compute `P^T` of a block."""
    scores = tl.dot(k, tl.trans(q)) * scale
    weights = tl.exp2((scores - log_sums[None, :]) * LOG2_E)
    return tl.where(columns[:, None] <= rows[None, :], weights, 0.0)


@triton.jit
def _forward(
    query,
    key,
    value,
    out,
    log_sums,
    scale,
    tokens,
    W: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
):
    block = tl.num_programs(1) - 1 - tl.program_id(1)  # those that see the most columns first
    base = tl.program_id(0).to(tl.int64) * tokens
    rows = block * R + tl.arange(0, R)
    q = _load(query, base, rows, tokens, W)
    peaks = tl.full([R], -float("inf"), tl.float32)
    sums = tl.zeros([R], tl.float32)
    total = tl.zeros([R, W], tl.float32)
    for start in range(0, tl.minimum(tokens, (block + 1) * R), C):
        columns = start + tl.arange(0, C)
        k = _load(key, base, columns, tokens, W)
        scores = tl.dot(q, tl.trans(k)) * (scale * LOG2_E)
        scores = tl.where(columns[None, :] <= rows[:, None], scores, -float("inf"))
        higher = tl.maximum(peaks, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        shrunk = tl.exp2(peaks - higher)
        sums = sums * shrunk + tl.sum(weights, 1)
        v = _load(value, base, columns, tokens, W)
        total = total * shrunk[:, None] + tl.dot(weights, v)
        peaks = higher
    _store(out, base, rows, tokens, total / sums[:, None], W)
    tl.store(log_sums + base + rows, peaks / LOG2_E + tl.log(sums), mask=rows < tokens)


@triton.jit
def _gradient_of_rows(
    query,
    key,
    value,
    grad_out,
    out,
    log_sums,
    row_sums,
    grad_query,
    scale,
    tokens,
    W: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
):
    """Compute `dQ`, and the row sums that both kernels need."""
    block = tl.num_programs(1) - 1 - tl.program_id(1)
    base = tl.program_id(0).to(tl.int64) * tokens
    rows = block * R + tl.arange(0, R)
    q = _load(query, base, rows, tokens, W)
    do = _load(grad_out, base, rows, tokens, W)
    sums = tl.load(log_sums + base + rows, mask=rows < tokens, other=float("inf"))
    centre = tl.sum(do * _load(out, base, rows, tokens, W), 1)
    tl.store(row_sums + base + rows, centre, mask=rows < tokens)
    total = tl.zeros([R, W], tl.float32)
    for start in range(0, tl.minimum(tokens, (block + 1) * R), C):
        columns = start + tl.arange(0, C)
        k = _load(key, base, columns, tokens, W)
        v = _load(value, base, columns, tokens, W)
        p = _weights(q, k, sums, rows, columns, scale)
        inner = tl.dot(do, tl.trans(v))
        total = tl.dot(p * (inner - centre[:, None]), k, total)
    _store(grad_query, base, rows, tokens, total * scale, W)


@triton.jit
def _gradient_of_columns(
    query,
    key,
    value,
    grad_out,
    log_sums,
    row_sums,
    grad_key,
    grad_value,
    scale,
    tokens,
    W: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
):
    """Compute `dK` and `dV`."""
    block = tl.program_id(1)  # those that most rows see come first
    base = tl.program_id(0).to(tl.int64) * tokens
    columns = block * C + tl.arange(0, C)
    k = _load(key, base, columns, tokens, W)
    v = _load(value, base, columns, tokens, W)
    to_key = tl.zeros([C, W], tl.float32)
    to_value = tl.zeros([C, W], tl.float32)
    for start in range(block * C // R * R, tokens, R):
        rows = start + tl.arange(0, R)
        q = _load(query, base, rows, tokens, W)
        do = _load(grad_out, base, rows, tokens, W)
        sums = tl.load(log_sums + base + rows, mask=rows < tokens, other=float("inf"))
        centre = tl.load(row_sums + base + rows, mask=rows < tokens, other=0.0)
        p = _turned_weights(q, k, sums, rows, columns, scale)
        inner = tl.dot(v, tl.trans(do))
        to_value = tl.dot(p, do, to_value)
        to_key = tl.dot(p * (inner - centre[None, :]), q, to_key)
    _store(grad_key, base, columns, tokens, to_key * scale, W)
    _store(grad_value, base, columns, tokens, to_value, W)


@triton.jit
def _compute_adjoints(q, do, tq, k, v, tk, tv, scale):
    """Compute `dP`, the adjoint of `dS`, and what `dV` adds to the adjoint of `P`, of a block."""
    inner = tl.dot(do, tl.trans(v))
    to_scores = tl.dot(tq, tl.trans(k))
    to_scores = tl.dot(q, tl.trans(tk), to_scores) * scale
    return inner, to_scores, tl.dot(do, tl.trans(tv))


@triton.jit
def _second_of_rows(
    query,
    key,
    value,
    grad_out,
    to_query,
    to_key,
    to_value,
    log_sums,
    row_sums,
    means,
    totals,
    for_query,
    for_grad_out,
    scale,
    tokens,
    W: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
):
    """Compute the sums over rows that both kernels need, then the adjoints of `Q` and `dO`."""
    block = tl.num_programs(1) - 1 - tl.program_id(1)
    base = tl.program_id(0).to(tl.int64) * tokens
    rows = block * R + tl.arange(0, R)
    q = _load(query, base, rows, tokens, W)
    do = _load(grad_out, base, rows, tokens, W)
    tq = _load(to_query, base, rows, tokens, W)
    sums = tl.load(log_sums + base + rows, mask=rows < tokens, other=float("inf"))
    centre = tl.load(row_sums + base + rows, mask=rows < tokens, other=0.0)
    end = tl.minimum(tokens, (block + 1) * R)
    mean = tl.zeros([R], tl.float32)
    total = tl.zeros([R], tl.float32)
    for start in range(0, end, C):
        columns = start + tl.arange(0, C)
        k = _load(key, base, columns, tokens, W)
        v = _load(value, base, columns, tokens, W)
        tk = _load(to_key, base, columns, tokens, W)
        tv = _load(to_value, base, columns, tokens, W)
        p = _weights(q, k, sums, rows, columns, scale)
        inner, to_scores, more = _compute_adjoints(q, do, tq, k, v, tk, tv, scale)
        mean += tl.sum(p * to_scores, 1)
        total += tl.sum(p * (more + to_scores * (inner - centre[:, None])), 1)
    total -= mean * centre
    tl.store(means + base + rows, mean, mask=rows < tokens)
    tl.store(totals + base + rows, total, mask=rows < tokens)
    of_query = tl.zeros([R, W], tl.float32)
    of_grad_out = tl.zeros([R, W], tl.float32)
    for start in range(0, end, C):
        columns = start + tl.arange(0, C)
        k = _load(key, base, columns, tokens, W)
        v = _load(value, base, columns, tokens, W)
        tk = _load(to_key, base, columns, tokens, W)
        tv = _load(to_value, base, columns, tokens, W)
        p = _weights(q, k, sums, rows, columns, scale)
        inner, to_scores, more = _compute_adjoints(q, do, tq, k, v, tk, tv, scale)
        centred = inner - centre[:, None]
        to_weights = more + to_scores * centred - mean[:, None] * inner
        for_scores = p * (to_weights - total[:, None])
        of_query = tl.dot(for_scores, k, of_query)
        of_query = tl.dot(p * centred, tk, of_query)
        to_inner = p * (to_scores - mean[:, None])
        of_grad_out = tl.dot(p, tv, of_grad_out)
        of_grad_out = tl.dot(to_inner, v, of_grad_out)
    _store(for_query, base, rows, tokens, of_query * scale, W)
    _store(for_grad_out, base, rows, tokens, of_grad_out, W)


@triton.jit
def _second_of_columns(
    query,
    key,
    value,
    grad_out,
    to_query,
    to_key,
    to_value,
    log_sums,
    row_sums,
    means,
    totals,
    for_key,
    for_value,
    scale,
    tokens,
    W: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
):
    """Compute the adjoints of `K` and `V`."""
    block = tl.program_id(1)
    base = tl.program_id(0).to(tl.int64) * tokens
    columns = block * C + tl.arange(0, C)
    k = _load(key, base, columns, tokens, W)
    v = _load(value, base, columns, tokens, W)
    tk = _load(to_key, base, columns, tokens, W)
    tv = _load(to_value, base, columns, tokens, W)
    of_key = tl.zeros([C, W], tl.float32)
    of_value = tl.zeros([C, W], tl.float32)
    for start in range(block * C // R * R, tokens, R):
        rows = start + tl.arange(0, R)
        q = _load(query, base, rows, tokens, W)
        do = _load(grad_out, base, rows, tokens, W)
        tq = _load(to_query, base, rows, tokens, W)
        sums = tl.load(log_sums + base + rows, mask=rows < tokens, other=float("inf"))
        centre = tl.load(row_sums + base + rows, mask=rows < tokens, other=0.0)
        mean = tl.load(means + base + rows, mask=rows < tokens, other=0.0)
        total = tl.load(totals + base + rows, mask=rows < tokens, other=0.0)
        p = _turned_weights(q, k, sums, rows, columns, scale)
        inner = tl.dot(v, tl.trans(do))
        to_scores = tl.dot(k, tl.trans(tq))
        to_scores = tl.dot(tk, tl.trans(q), to_scores) * scale
        more = tl.dot(tv, tl.trans(do))
        centred = inner - centre[None, :]
        to_weights = more + to_scores * centred - mean[None, :] * inner
        for_scores = p * (to_weights - total[None, :])
        of_key = tl.dot(for_scores, q, of_key)
        of_key = tl.dot(p * centred, tq, of_key)
        to_inner = p * (to_scores - mean[None, :])
        of_value = tl.dot(to_inner, do, of_value)
    _store(for_key, base, columns, tokens, of_key * scale, W)
    _store(for_value, base, columns, tokens, of_value, W)
