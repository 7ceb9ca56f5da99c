"""Attention and its derivatives by torch's own operations, a block of rows at a time.

Nothing above the diagonal block is computed, no `(T, T)` matrix is kept, and the terms that a row
sums over depend on its block alone, not on the padding of the batch.

Shapes: `N` batch times heads, `T` tokens, `w` width of a head, `R` rows of a block, `C` columns
that they see.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 64
"Rows of a block on the CPU."
BLOCK_ON_GPU = 256
"Rows of a block on the GPU, where launches cost more than entries above the diagonal."


def compute_forward(
    query: Tensor, key: Tensor, value: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Compute attention.

    Returns:
        The output `(N, T, w)`, and the logarithms of the sums of its softmax `(N, T)`.
    """
    out = torch.empty_like(query)
    log_sums = query.new_empty(query.shape[:2])  # (N, T)
    for rows, seen in _blocks(query):
        scores = _scores(query[:, rows], key[:, seen], scale)
        peaks = scores.amax(dim=-1, keepdim=True)  # (N, R, 1)
        weights = scores.sub_(peaks).exp_()
        sums = weights.sum(dim=-1, keepdim=True)  # (N, R, 1)
        log_sums[:, rows, None] = peaks + sums.log()
        # torch would multiply matrix by matrix into a slice given as `out=`; so below.
        out[:, rows] = torch.bmm(weights, value[:, seen]).div_(sums)
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
    grad_query, grad_key = torch.empty_like(query), torch.zeros_like(key)
    grad_value = torch.zeros_like(value)
    row_sums = (grad_out * out).sum(dim=-1)  # (N, T)
    for rows, seen in _blocks(query):
        weights = _weights(query[:, rows], key[:, seen], log_sums[:, rows], scale)
        grad_value[:, seen].add_(torch.bmm(weights.mT, grad_out[:, rows]))
        grad_scores = torch.bmm(grad_out[:, rows], value[:, seen].mT)  # (N, R, C)
        grad_scores.sub_(row_sums[:, rows, None]).mul_(weights).mul_(scale)
        grad_query[:, rows] = torch.bmm(grad_scores, key[:, seen])
        grad_key[:, seen].add_(torch.bmm(grad_scores.mT, query[:, rows]))
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
    for_query, for_grad_out = torch.empty_like(query), torch.empty_like(query)
    for_key, for_value = torch.zeros_like(key), torch.zeros_like(value)
    for rows, seen in _blocks(query):
        q, k, v, do = query[:, rows], key[:, seen], value[:, seen], grad_out[:, rows]
        weights = _weights(q, k, log_sums[:, rows], scale)  # P
        inner = torch.bmm(do, v.mT)  # dP = dO V^T
        centred = inner - row_sums[:, rows, None]
        # E, the adjoint of dS, and its mean under P.
        to_scores = torch.bmm(to_query[:, rows], k.mT)
        to_scores.baddbmm_(q, to_key[:, seen].mT).mul_(scale)
        mean = (to_scores * weights).sum(dim=-1, keepdim=True)  # (N, R, 1)
        # The adjoint of P: dO c^T + E * (dP - rowsum) - mean * dP.
        to_weights = inner.mul_(mean).neg_().addcmul_(to_scores, centred)
        to_weights.baddbmm_(do, to_value[:, seen].mT)
        # Through the softmax.
        total = (to_weights * weights).sum(dim=-1, keepdim=True)
        for_scores = to_weights.sub_(total).mul_(weights).mul_(scale)
        grad_scores = centred.mul_(weights).mul_(scale)  # dS
        to_inner = to_scores.sub_(mean).mul_(weights)  # the adjoint of dP
        for_query[:, rows] = torch.bmm(for_scores, k)
        for_query[:, rows].add_(torch.bmm(grad_scores, to_key[:, seen]))
        for_key[:, seen].add_(torch.bmm(for_scores.mT, q))
        for_key[:, seen].add_(torch.bmm(grad_scores.mT, to_query[:, rows]))
        for_value[:, seen].add_(torch.bmm(to_inner.mT, do))
        for_grad_out[:, rows] = torch.bmm(weights, to_value[:, seen])
        for_grad_out[:, rows].add_(torch.bmm(to_inner, v))
    return for_query, for_key, for_value, for_grad_out


def _blocks(query: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield the rows of each block, and the columns that they see."""
    tokens = query.shape[1]
    rows = BLOCK_ON_GPU if query.is_cuda else BLOCK
    for start in range(0, tokens, rows):
        end = min(start + rows, tokens)
        yield slice(start, end), slice(0, end)


def _scores(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Compute `scale Q K^T` of a block `(N, R, C)`, with minus infinity above the diagonal."""
    scores = torch.bmm(query, key.mT).mul_(scale)
    rows = query.shape[1]
    hidden = torch.ones(rows, rows, dtype=torch.bool, device=query.device).triu_(1)
    scores[:, :, -rows:].masked_fill_(hidden, -torch.inf)
    return scores


def _weights(query: Tensor, key: Tensor, log_sums: Tensor, scale: float) -> Tensor:
    """Compute `P` of a block, `(N, R, C)`."""
    return _scores(query, key, scale).sub_(log_sums[..., None]).exp_()
