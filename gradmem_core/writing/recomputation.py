"""Gradient steps that keep no graph and are computed again when they are differentiated.

torch's own `checkpoint` gives the same gradients, but computes the forward pass of a step once
more, and keeps for every step the hidden states behind the token weights, which the inner gradient
does not touch.
"""

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Step(Protocol):
    """A gradient step for `B` memories `(B, m, d)` and embedded contexts `(B, T, d)`."""

    def __call__(
        self, memory: Tensor, embedded: Tensor, *, create_graph: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the next memory `(B, m, d)` and the loss of each token before it `(B, T)`."""


def take_recomputed_step(
    step: Step, parameters: Iterable[Tensor], memory: Tensor, embedded: Tensor
) -> tuple[Tensor, Tensor]:
    """Take a step of which only `memory` is kept until its results are differentiated.

    Args:
        step: The step; it must return the same when it is computed again.
        parameters: All other tensors that a gradient may reach; those that require no gradient are
            ignored.
        memory: Memory before the step, `(B, m, d)`.
        embedded: Embedded contexts, `(B, T, d)`.

    Returns:
        The results of `step`, differentiable once by `memory`, `embedded` and `parameters`.
    """
    trained = (parameter for parameter in parameters if parameter.requires_grad)
    return _RecomputedStep.apply(step, memory, embedded, *trained)  # type: ignore[no-any-return, no-untyped-call]


class _RecomputedStep(torch.autograd.Function):
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
        next_memory, losses = step(
            memory.detach().requires_grad_(), embedded.detach(), create_graph=False
        )
        return next_memory.detach(), losses.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_memory: Tensor, to_losses: Tensor) -> Any:  # noqa: ANN401
        memory, embedded, *parameters = ctx.saved_tensors
        inputs = [tensor.detach().requires_grad_() for tensor in (memory, embedded)]
        results = ctx.step(*inputs, create_graph=True)
        gradients = torch.autograd.grad(
            results, [*inputs, *parameters], (to_memory, to_losses), allow_unused=True
        )
        return None, *gradients
