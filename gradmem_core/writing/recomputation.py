"""Steps that keep no graph: differentiating one computes it again.

torch's own `checkpoint` gives the same gradients of WRITE's steps, but computes a step's forward
once more, and keeps what the inner gradient does not touch (the hidden states behind the token
weights) for every step.
"""

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Step(Protocol):
    """One gradient step, for `B` memories `(B, m, d)` and embedded contexts `(B, T, d)`."""

    def __call__(
        self, memory: Tensor, embedded: Tensor, *, create_graph: bool
    ) -> tuple[Tensor, Tensor]:
        """The next memory `(B, m, d)` and the loss at this one `(B,)`, with their graph or not."""


def take_recomputed_step(
    step: Step, parameters: Iterable[Tensor], memory: Tensor, embedded: Tensor
) -> tuple[Tensor, Tensor]:
    """Take a step of which only `memory` is kept until its results are differentiated.

    Args:
        step: Has to give the same again when its gradient is asked for.
        parameters: Every other tensor that a gradient may go to; those that need none are left out.
        memory: `(B, m, d)`.
        embedded: `(B, T, d)`.

    Returns:
        What `step` returns, differentiable once by `memory`, `embedded` and `parameters`.
    """
    trained = (parameter for parameter in parameters if parameter.requires_grad)
    return _Recomputed.apply(step, memory, embedded, *trained)  # type: ignore[no-any-return, no-untyped-call]


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        step: Step,
        memory: Tensor,
        embedded: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(memory, embedded, *parameters)
        ctx.step = step
        following, loss = step(
            memory.detach().requires_grad_(), embedded.detach(), create_graph=False
        )
        return following.detach(), loss.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_following: Tensor, to_loss: Tensor) -> Any:  # noqa: ANN401
        memory, embedded, *parameters = ctx.saved_tensors
        inputs = [tensor.detach().requires_grad_() for tensor in (memory, embedded)]
        results = ctx.step(*inputs, create_graph=True)
        gradients = torch.autograd.grad(
            results, [*inputs, *parameters], (to_following, to_loss), allow_unused=True
        )
        return None, *gradients
