"""WRITE: a context becomes a memory by gradient descent on its reconstruction loss.

Source: Kuratov et al., GradMem, arXiv 2603.13875. Shapes: `B` batch, `m` memory vectors, `T`
context tokens, `d` width, `V` vocabulary, `K` write steps.
"""

from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import torch
from torch import Tensor

from gradmem_core.backbone import twice_differentiable_attention
from gradmem_core.config import MemoryConfig
from gradmem_core.errors import (
    ContextTooLongError,
    EmptyContextError,
    NonFiniteLossError,
    WriteStepsError,
)
from gradmem_core.model import MemoryModel
from gradmem_core.recompute import recomputed

SETTLED = 0.02
"Share of its first loss by which a step must lower a sample's loss for an automatic stop to go on."

Reached = TypeVar("Reached")
"What an automatic stop chooses from."


@dataclass(frozen=True)
class Written:
    """What WRITE returns."""

    memory: Tensor
    "The memories, float32 `(B, m, d)`."
    losses: Tensor
    "Each sample's loss in nats per token before each step, and after the last: `(B, K + 1)`."
    accuracy: Tensor | None
    "Share of each context's tokens that the memory predicts correctly, `(B,)`."


def write(
    model: MemoryModel,
    context_ids: Tensor,
    lengths: Tensor,
    steps: int,
    *,
    create_graph: bool,
    second_order: bool = True,
    recompute: bool = False,
    measure: bool = True,
) -> Written:
    """Compress contexts into memories. Changes nothing in the model.

    Args:
        model: Backbone, M0 and write side.
        context_ids: Token ids, `(B, T)`, padded on the right with any id.
        lengths: Tokens of each context, `(B,)`, from 1 to `T`.
        steps: Gradient steps (K), from 1 to the configuration's `max_write_steps`.
        create_graph: Keep the graph of every step, so that a loss of the memory can be
            differentiated through WRITE (second order, for meta-training). Without it nothing is
            kept from one step to the next.
        second_order: With `create_graph`, differentiate the gradient steps too. Without it their
            gradients are constants to a loss of the memory, which then reaches only M0 and the
            inner learning rate.
        recompute: With `create_graph`, keep of each step only the memory that it starts from, and
            compute the step again when the loss is differentiated. The gradient is the same; the
            memory needed no longer grows with `steps`, for more time.
        measure: Score the finished memory too. Without it `losses` is `(B, K)` and `accuracy` None,
            which saves meta-training a forward pass.

    Returns:
        The memories with their losses and accuracy. A sample's memory does not depend on the batch.

    Raises:
        EmptyContextError: A context has no token.
        ContextTooLongError: A context is longer than the checkpoint was trained for.
        WriteStepsError: `steps` is out of range.
        NonFiniteLossError: A loss or a memory became infinite or NaN.
    """
    for extreme in lengths.aminmax():
        check_context(model.config, int(extreme))
    check_steps(model.config, steps)
    embedded = model.backbone.embed(context_ids)
    shares = _shares(context_ids, lengths)
    memory = model.initial_memory.expand(len(context_ids), -1, -1)  # (B, m, d)
    losses: list[Tensor] = []
    step = partial(_step, model, context_ids=context_ids, shares=shares, second_order=second_order)
    take = partial(step, create_graph=create_graph)
    if create_graph and recompute:
        take = partial(recomputed, step, list(model.parameters()))
    with torch.enable_grad():
        for _ in range(steps):
            if not create_graph:
                memory = memory.detach().requires_grad_()
            memory, loss = take(memory, embedded)
            losses.append(loss if create_graph else loss.detach())
    if not create_graph:
        memory = memory.detach()
    accuracy = None
    if measure:
        final, accuracy = reconstruction(model, memory, context_ids, lengths)
        losses.append(final)
    written = Written(memory, torch.stack(losses, dim=1), accuracy)
    _check_finite(written)
    return written


def gradient_step(
    model: MemoryModel, memory: Tensor, context_ids: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of WRITE, keeping nothing of it: what a scheduler does between other work.

    A sample's step does not depend on the batch, so that documents may join and leave between
    steps. Check lengths with `check_context`, and the results for what is not finite.

    Args:
        model: Backbone, M0 and write side.
        memory: Where each sample stands, float32 `(B, m, d)`; M0 for a fresh one.
        context_ids: `(B, T)`, padded on the right with any id.
        lengths: `(B,)`.

    Returns:
        The next memories `(B, m, d)`, and each sample's loss before, nats per token `(B,)`.
    """
    embedded = model.backbone.embed(context_ids).detach()
    shares = _shares(context_ids, lengths)
    leaf = memory.detach().requires_grad_()
    following, loss = _step(
        model, leaf, embedded, context_ids, shares, create_graph=False, second_order=False
    )
    return following.detach(), loss.detach()


@torch.no_grad()
def reconstruction(
    model: MemoryModel, memory: Tensor, context_ids: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """How well memories hold their contexts.

    Args:
        model: The model that wrote them.
        memory: `(B, m, d)`.
        context_ids: `(B, T)`, padded on the right.
        lengths: `(B,)`.

    Returns:
        Each sample's reconstruction loss in nats per token `(B,)`, and the share of its tokens
        that are predicted correctly `(B,)`.
    """
    embedded = model.backbone.embed(context_ids)
    with twice_differentiable_attention():
        token_losses, logits, _ = _reconstruct(model, memory, embedded, context_ids)
    shares = _shares(context_ids, lengths)
    predicted = logits.argmax(dim=-1) == context_ids
    return (token_losses * shares).sum(dim=1), (predicted * (shares > 0)).sum(dim=1) / lengths


def check_context(config: MemoryConfig, tokens: int) -> None:
    """Refuse a context that is empty or beyond the checkpoint's limit.

    Raises:
        EmptyContextError: There is no token.
        ContextTooLongError: There are more than `max_context_tokens`.
    """
    if tokens < 1:
        raise EmptyContextError("the document has no token; send at least one")
    if tokens > config.max_context_tokens:
        raise ContextTooLongError(
            f"the document has {tokens} tokens and this checkpoint takes at most"
            f" {config.max_context_tokens}; send a shorter document or split it",
            limit=config.max_context_tokens,
        )


def check_steps(config: MemoryConfig, steps: int) -> None:
    """Refuse a number of write steps out of range.

    Raises:
        WriteStepsError: `steps` is below 1 or above `max_write_steps`.
    """
    if not 1 <= steps <= config.max_write_steps:
        raise WriteStepsError(
            f"{steps} write steps were asked for and this checkpoint takes 1 to"
            f" {config.max_write_steps}",
            limit=config.max_write_steps,
        )


class AutomaticStop(Generic[Reached]):
    """Says after each step of a document whether another is worth making, and keeps the best.

    Steps go on while each lowers the loss by more than a share of the loss that the document
    started from.

    Args:
        start: Loss before the first step.
        most_steps: Most steps, at least 1.
        tolerance: By how much a step must lower the loss, as a share of `start`, 0 to 1.
    """

    best: Reached
    "What the step reached after which the loss was lowest; there after the first step."
    loss: float
    "The loss there."

    def __init__(self, start: float, most_steps: int, *, tolerance: float = SETTLED) -> None:
        self._start = start
        self._most_steps = most_steps
        self._tolerance = tolerance
        self.steps = 0
        "Steps that were made."

    def follow(self, loss: float, reached: Reached) -> bool:
        """Take in a step: whether another is worth making.

        Args:
            loss: The loss after it.
            reached: What it reached.
        """
        before = self.loss if self.steps else self._start
        if not self.steps or loss < before:
            self.best, self.loss = reached, loss
        self.steps += 1
        helped = before - loss > self._tolerance * self._start
        return helped and self.steps < self._most_steps


@dataclass(frozen=True)
class Settled:
    """What WRITE with an automatic stop returns."""

    memory: Tensor
    "The memories, float32 `(B, m, d)`."
    losses: Tensor
    "Each sample's loss at its memory, nats per token, `(B,)`."
    steps: Tensor
    "Gradient steps computed for each sample, `(B,)`."


def write_until_settled(
    model: MemoryModel,
    context_ids: Tensor,
    lengths: Tensor,
    max_steps: int,
    *,
    tolerance: float = SETTLED,
) -> Settled:
    """Compress contexts with as many steps as still help.

    A sample stops on its own when a step lowered its loss by less than `tolerance` of the loss that
    it started from, and keeps the better memory of the last two. What stopped leaves the batch.

    Args:
        model: Backbone, M0 and write side.
        context_ids: `(B, T)`, padded on the right with any id.
        lengths: `(B,)`.
        max_steps: Most gradient steps, from 1 to the configuration's `max_write_steps`.
        tolerance: By how much a step must lower the loss, as a share of the first loss, 0 to 1.

    Raises:
        EmptyContextError: A context has no token.
        ContextTooLongError: A context is longer than the checkpoint was trained for.
        WriteStepsError: `max_steps` is out of range.
        NonFiniteLossError: A loss or a memory became infinite or NaN.
    """
    check_steps(model.config, max_steps)
    first = write(model, context_ids, lengths, 1, create_graph=False)
    before, after = first.losses.T.tolist()
    stops = [AutomaticStop[Tensor](loss, max_steps, tolerance=tolerance) for loss in before]
    memory = first.memory.clone()
    going = [i for i, stop in enumerate(stops) if stop.follow(after[i], first.memory[i])]
    while going:
        part = (context_ids[going], lengths[going])
        moved, _ = gradient_step(model, memory[going], *part)
        losses, _ = reconstruction(model, moved, *part)
        memory[going] = moved
        reached = zip(going, losses.tolist(), moved, strict=True)
        going = [i for i, loss, of_sample in reached if stops[i].follow(loss, of_sample)]
    settled = Settled(
        torch.stack([stop.best for stop in stops]),
        first.losses.new_tensor([stop.loss for stop in stops]),
        lengths.new_tensor([stop.steps for stop in stops]),
    )
    _check_finite(Written(settled.memory, settled.losses[:, None], None))
    return settled


@torch.enable_grad()
@twice_differentiable_attention()
def _step(
    model: MemoryModel,
    memory: Tensor,
    embedded: Tensor,
    context_ids: Tensor,
    shares: Tensor,
    *,
    create_graph: bool,
    second_order: bool,
) -> tuple[Tensor, Tensor]:
    """One gradient step: the next memory `(B, m, d)`, and the loss at this one `(B,)`."""
    token_losses, _, hidden = _reconstruct(model, memory, embedded, context_ids)
    weights = model.token_weights(hidden) * shares  # (B, T)
    # As `grad_outputs` the weights are constants to the memory, but not to meta-training.
    (gradient,) = torch.autograd.grad(
        token_losses,
        memory,
        grad_outputs=weights,
        create_graph=create_graph and second_order,
        retain_graph=create_graph,
    )
    memory = memory - model.inner_learning_rate() * _clipped(model.config, gradient)
    return memory, (token_losses * shares).sum(dim=1)


def _reconstruct(
    model: MemoryModel, memory: Tensor, embedded: Tensor, context_ids: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Every token's loss `(B, T)`, its logits `(B, T, V)` and its hidden state `(B, T, d)`."""
    size = model.config.memory_tokens
    inputs = torch.cat([model.prefix(memory), embedded], dim=1)  # (B, m + T, d)
    with model.backbone.writing():
        hidden = model.backbone.hidden(inputs)
    # The last memory vector predicts the first token; the last token predicts nothing.
    logits = model.write_logits(hidden[:, size - 1 : -1])  # (B, T, V)
    losses = model.backbone.token_losses(logits, context_ids)
    return losses, logits, hidden[:, size:]


def _shares(context_ids: Tensor, lengths: Tensor) -> Tensor:
    """Each token's share of its context's mean loss, nothing for padding: `(B, T)`."""
    places = torch.arange(context_ids.shape[1], device=context_ids.device)
    return (places < lengths[:, None]) / lengths[:, None]


def _clipped(config: MemoryConfig, gradient: Tensor) -> Tensor:
    """Scale down each sample's gradient `(B, m, d)` whose norm is above the limit."""
    if config.inner_gradient_clip is None:
        return gradient
    norm: Tensor = torch.linalg.vector_norm(gradient, dim=(1, 2), keepdim=True)  # (B, 1, 1)
    limit = config.inner_gradient_clip
    return gradient * (limit / norm.clamp(min=limit))


def _check_finite(written: Written) -> None:
    finite = written.losses.isfinite().all(dim=1) & written.memory.isfinite().all(dim=(1, 2))
    if not finite.all():
        samples = (~finite).nonzero().flatten().tolist()
        raise NonFiniteLossError(
            f"WRITE diverged for {len(samples)} of {len(finite)} documents: a loss or a memory is"
            " not finite; use fewer steps or a smaller inner learning rate",
            samples=samples,
        )
