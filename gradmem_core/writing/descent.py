"""WRITE: gradient descent on the reconstruction loss makes a memory from a context.

Source: Kuratov et al., GradMem, arXiv 2603.13875. Shapes: `B` batch, `m` memory vectors, `T`
context tokens, `d` width, `V` vocabulary, `K` write steps.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gradmem_core.backbone import twice_differentiable_attention
from gradmem_core.config import MemoryConfig
from gradmem_core.errors import NonFiniteLossError
from gradmem_core.limits import check_context, check_steps
from gradmem_core.model import MemoryModel
from gradmem_core.writing.recomputation import take_recomputed_step


@dataclass(frozen=True)
class ReconstructionScore:
    """Losses of contexts given their memories, teacher-forced."""

    token_losses: Tensor
    "Loss of each token given the memory and the tokens before it, nats, 0 for padding, `(B, T)`."
    loss: Tensor
    "Mean of each context's tokens, nats per token, `(B,)`."
    accuracy: Tensor
    "Share of each context's tokens that are predicted correctly, `(B,)`."


@dataclass(frozen=True)
class WrittenBatch:
    """The memories of a batch of contexts, with their losses."""

    memory: Tensor
    "The memories, float32 `(B, m, d)`."
    losses: Tensor
    "Loss of each sample before each step and after the last, nats per token, `(B, K + 1)`."
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
) -> WrittenBatch:
    """Compress contexts into memories, without changing the model.

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
        recompute: With `create_graph`, keep only the starting memory of each step, and compute the
            step again when the loss is differentiated. The gradient is the same; device memory
            hardly grows with `steps`, at the cost of time.
        measure: Score the finished memory too. Without it `losses` is `(B, K)` and `accuracy` None,
            which saves meta-training a forward pass.

    Returns:
        The memories with their losses and accuracy. A sample's memory does not depend on the batch.

    Raises:
        EmptyContextError: A context has no tokens.
        ContextTooLongError: A context is longer than the checkpoint was trained for.
        WriteStepsError: `steps` is out of range.
        NonFiniteLossError: A loss or a memory became infinite or NaN.
    """
    for extreme in lengths.aminmax():
        check_context(model.config, int(extreme))
    check_steps(model.config, steps)
    embedded = model.backbone.embed(context_ids)
    shares = _token_shares(context_ids, lengths)
    memory = model.initial_memory.expand(len(context_ids), -1, -1)  # (B, m, d)
    losses: list[Tensor] = []
    step = partial(_step, model, context_ids=context_ids, shares=shares, second_order=second_order)
    take_step = partial(step, create_graph=create_graph)
    if create_graph and recompute:
        take_step = partial(take_recomputed_step, step, list(model.parameters()))
    with torch.enable_grad():
        for _ in range(steps):
            if not create_graph:
                memory = memory.detach().requires_grad_()
            memory, token_losses = take_step(memory, embedded)
            loss = (token_losses * shares).sum(dim=1)
            losses.append(loss if create_graph else loss.detach())
    if not create_graph:
        memory = memory.detach()
    accuracy = None
    if measure:
        final = score_reconstruction(model, memory, context_ids, lengths)
        accuracy = final.accuracy
        losses.append(final.loss)
    written = WrittenBatch(memory, torch.stack(losses, dim=1), accuracy)
    check_finite(written.memory, written.losses)
    return written


def take_gradient_step(
    model: MemoryModel, memory: Tensor, context_ids: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Take one step of WRITE without a graph, for a scheduler that does other work between steps.

    A sample's step does not depend on the batch, so that documents may join and leave between
    steps. The caller checks lengths with `check_context`, and that the results are finite.

    Args:
        model: Backbone, M0 and write side.
        memory: Current memory of each sample, float32 `(B, m, d)`; M0 before the first step.
        context_ids: Token ids, `(B, T)`, padded on the right with any id.
        lengths: Tokens of each context, `(B,)`.

    Returns:
        The next memories `(B, m, d)`, and the loss of each token before the step, nats, 0 for
        padding, `(B, T)`.
    """
    embedded = model.backbone.embed(context_ids).detach()
    shares = _token_shares(context_ids, lengths)
    leaf = memory.detach().requires_grad_()
    next_memory, token_losses = _step(
        model, leaf, embedded, context_ids, shares, create_graph=False, second_order=False
    )
    return next_memory.detach(), (token_losses * (shares > 0)).detach()


@torch.no_grad()
def score_reconstruction(
    model: MemoryModel, memory: Tensor, context_ids: Tensor, lengths: Tensor
) -> ReconstructionScore:
    """Score memories by the reconstruction of their contexts, teacher-forced.

    Args:
        model: The model that wrote the memories.
        memory: The memories, `(B, m, d)`.
        context_ids: Token ids, `(B, T)`, padded on the right with any id.
        lengths: Tokens of each context, `(B,)`.
    """
    embedded = model.backbone.embed(context_ids)
    with twice_differentiable_attention():
        token_losses, logits, _ = _reconstruct(model, memory, embedded, context_ids)
    shares = _token_shares(context_ids, lengths)
    predicted = logits.argmax(dim=-1) == context_ids
    return ReconstructionScore(
        token_losses=token_losses * (shares > 0),
        loss=(token_losses * shares).sum(dim=1),
        accuracy=(predicted * (shares > 0)).sum(dim=1) / lengths,
    )


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
    """Take a gradient step; return the next memory `(B, m, d)` and this one's losses `(B, T)`."""
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
    memory = memory - model.inner_learning_rate() * _clip(model.config, gradient)
    return memory, token_losses


def _reconstruct(
    model: MemoryModel, memory: Tensor, embedded: Tensor, context_ids: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss `(B, T)`, logits `(B, T, V)` and hidden state `(B, T, d)` of every token."""
    size = model.config.memory_tokens
    inputs = torch.cat([model.prefix(memory), embedded], dim=1)  # (B, m + T, d)
    with model.backbone.writing():
        hidden = model.backbone.hidden(inputs)
    # The last memory vector predicts the first token; the last token predicts nothing.
    logits = model.write_logits(hidden[:, size - 1 : -1])  # (B, T, V)
    losses = model.backbone.token_losses(logits, context_ids)
    return losses, logits, hidden[:, size:]


def _token_shares(context_ids: Tensor, lengths: Tensor) -> Tensor:
    """Return the share of each token in its context's mean loss, 0 for padding: `(B, T)`."""
    places = torch.arange(context_ids.shape[1], device=context_ids.device)
    return (places < lengths[:, None]) / lengths[:, None]


def _clip(config: MemoryConfig, gradient: Tensor) -> Tensor:
    """Scale down each sample's gradient `(B, m, d)` whose norm is above the limit."""
    if config.inner_gradient_clip is None:
        return gradient
    norm: Tensor = torch.linalg.vector_norm(gradient, dim=(1, 2), keepdim=True)  # (B, 1, 1)
    limit = config.inner_gradient_clip
    return gradient * (limit / norm.clamp(min=limit))


def check_finite(memory: Tensor, losses: Tensor) -> None:
    """Refuse memories `(B, m, d)` and losses `(B, K)` that are not finite.

    Raises:
        NonFiniteLossError: A loss or a memory is infinite or NaN; the error names the samples.
    """
    finite = losses.isfinite().all(dim=1) & memory.isfinite().all(dim=(1, 2))
    if not finite.all():
        samples = (~finite).nonzero().flatten().tolist()
        raise NonFiniteLossError(
            f"WRITE diverged for {len(samples)} of {len(finite)} documents: a loss or a memory is"
            " not finite; use fewer steps or a smaller inner learning rate",
            samples=samples,
        )
