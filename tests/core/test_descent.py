"""WRITE against a plain loop over one document at a time, its promises, and its refusals."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradmem_core.errors import (
    ContextTooLongError,
    EmptyContextError,
    NonFiniteLossError,
    WriteStepsError,
)
from gradmem_core.model import MemoryModel
from gradmem_core.reading.scoring import read
from gradmem_core.writing.descent import WrittenBatch, write

TinyModel = Callable[..., MemoryModel]
RandomIds = Callable[..., Tensor]

TOLERANCE = 1e-5
SLOPE_TOLERANCE = 1e-6
EPSILON = 1e-6
LENGTHS = torch.tensor([7, 1, 12, 4])
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "language-model head": {"write_head": False},
    "projection": {"memory_projection": True},
    "rate per element": {"inner_learning_rate_per_element": True},
    "clipped": {"inner_gradient_clip": 0.05},
    "everything": {
        "memory_projection": True,
        "inner_learning_rate_per_element": True,
        "inner_gradient_clip": 0.4,
    },
}


def relative_error(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).norm() / expected.norm())


def write_lengths(
    model: MemoryModel, contexts: Tensor, *, steps: int = 3, **how: Any
) -> WrittenBatch:
    settings = {"create_graph": False} | how
    return write(model, contexts, LENGTHS, steps, **settings)


def by_hand(model: MemoryModel, context: Tensor, steps: int) -> tuple[Tensor, Tensor, float]:
    """WRITE of one document without a batch: memory, losses and accuracy."""
    config = model.config
    rate: Tensor | float = config.inner_learning_rate
    if model.log_inner_learning_rate is not None:
        rate = model.log_inner_learning_rate.detach().exp()
    memory = model.initial_memory.detach()[None]
    losses = []
    for step in range(steps + 1):
        memory = memory.detach().requires_grad_()
        inputs = torch.cat([model.prefix(memory), model.backbone.embed(context[None])], dim=1)
        logits = model.write_logits(model.backbone.hidden(inputs))[0, config.memory_tokens - 1 : -1]
        loss = F.cross_entropy(logits, context)
        losses.append(loss.detach())
        if step < steps:
            (gradient,) = torch.autograd.grad(loss, memory)
            norm = float(gradient.norm())
            if config.inner_gradient_clip is not None and norm > config.inner_gradient_clip:
                gradient = gradient / norm * config.inner_gradient_clip
            memory = memory - rate * gradient
    accuracy = float((logits.argmax(dim=-1) == context).float().mean())
    return memory.detach()[0], torch.stack(losses), accuracy


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("create_graph", [False, True])
def test_a_batch_is_what_each_document_gives_alone(
    tiny_model: TinyModel, random_ids: RandomIds, family: str, variant: str, create_graph: bool
) -> None:
    model = tiny_model(family, **VARIANTS[variant])
    contexts = random_ids(4, 12)
    written = write_lengths(model, contexts, create_graph=create_graph)
    assert written.accuracy is not None
    assert written.memory.shape == (4, 3, 16)
    assert written.memory.dtype == torch.float32
    exact = deepcopy(model).double()  # in float32 the loop's own rounding comes near the tolerance
    for row, length in enumerate(LENGTHS.tolist()):
        memory, losses, accuracy = by_hand(exact, contexts[row, :length], 3)
        assert relative_error(written.memory[row].detach(), memory) < TOLERANCE
        assert relative_error(written.losses[row].detach(), losses) < TOLERANCE
        assert float(written.accuracy[row]) == pytest.approx(accuracy, abs=1e-6)


def test_padding_of_other_ids_gives_the_same_memory(
    tiny_model: TinyModel, random_ids: RandomIds, family: str
) -> None:
    model = tiny_model(family)
    contexts = random_ids(4, 12)
    real = torch.arange(12) < LENGTHS[:, None]
    first = write_lengths(model, torch.where(real, contexts, 0))
    second = write_lengths(model, torch.where(real, contexts, random_ids(4, 12, seed=9)))
    assert relative_error(first.memory, second.memory) < TOLERANCE
    assert torch.equal(first.losses, second.losses)
    assert first.accuracy is not None
    assert second.accuracy is not None
    assert torch.equal(first.accuracy, second.accuracy)


def test_writing_lowers_the_loss(tiny_model: TinyModel, random_ids: RandomIds) -> None:
    losses = write_lengths(tiny_model(inner_learning_rate=0.03), random_ids(4, 12)).losses
    assert (losses[:, 1:] < losses[:, :-1]).all()


def test_accuracy_counts_the_tokens_that_the_memory_predicts(
    tiny_model: TinyModel, random_ids: RandomIds
) -> None:
    model = tiny_model()
    assert model.write_head is not None
    with torch.no_grad():  # every token is predicted to be the one that the head names
        model.write_head.weight.zero_()
    contexts = random_ids(4, 12)
    contexts[0, [0, 3]] = 0  # argmax of equal logits; 2 of 7 tokens
    contexts[2, :] = 0
    accuracy = write_lengths(model, contexts).accuracy
    assert accuracy is not None
    assert accuracy.tolist() == pytest.approx([2 / 7, 0, 1, 0])


@pytest.mark.parametrize("create_graph", [False, True])
def test_the_model_is_not_changed(
    tiny_model: TinyModel, random_ids: RandomIds, family: str, create_graph: bool
) -> None:
    model = tiny_model(family, **VARIANTS["everything"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    write_lengths(model, random_ids(4, 12), create_graph=create_graph)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("frozen", [False, True])
def test_serving_keeps_no_graph(tiny_model: TinyModel, random_ids: RandomIds, frozen: bool) -> None:
    model = tiny_model(**VARIANTS["everything"]).requires_grad_(not frozen)
    with torch.no_grad():
        written = write_lengths(model, random_ids(4, 12))
    for tensor in (written.memory, written.losses, written.accuracy):
        assert tensor is not None
        assert tensor.grad_fn is None
        assert not tensor.requires_grad


def test_meta_training_keeps_the_graph_of_memory_and_losses(
    tiny_model: TinyModel, random_ids: RandomIds
) -> None:
    written = write_lengths(tiny_model(), random_ids(4, 12), create_graph=True)
    assert written.memory.grad_fn is not None
    assert written.losses.grad_fn is not None


def test_without_measuring_the_last_loss_and_the_accuracy_are_left_out(
    tiny_model: TinyModel, random_ids: RandomIds
) -> None:
    model, contexts = tiny_model(), random_ids(4, 12)
    measured = write_lengths(model, contexts)
    written = write_lengths(model, contexts, measure=False)
    assert written.accuracy is None
    assert written.losses.shape == (4, 3)
    assert measured.losses.shape == (4, 4)
    assert torch.equal(written.losses, measured.losses[:, :3])
    assert torch.equal(written.memory, measured.memory)


def test_the_limit_of_the_inner_gradient_holds_for_each_step_and_sample(
    tiny_model: TinyModel, random_ids: RandomIds
) -> None:
    model = tiny_model(inner_gradient_clip=0.05, inner_learning_rate=1.0)
    moved = write_lengths(model, random_ids(4, 12), steps=1).memory - model.initial_memory.detach()
    assert moved.norm(dim=(1, 2)).tolist() == pytest.approx([0.05] * 4, rel=1e-4)


@pytest.mark.parametrize("row", [0, 1])
def test_an_empty_context_is_refused(
    tiny_model: TinyModel, random_ids: RandomIds, row: int
) -> None:
    lengths = torch.tensor([3, 3])
    lengths[row] = 0
    with pytest.raises(EmptyContextError):
        write(tiny_model(), random_ids(2, 3), lengths, 1, create_graph=False)


def test_a_context_beyond_the_limit_is_refused_and_one_at_the_limit_is_not(
    tiny_model: TinyModel, random_ids: RandomIds
) -> None:
    model, contexts = tiny_model(max_context_tokens=5), random_ids(2, 6)
    write(model, contexts, torch.tensor([5, 1]), 1, create_graph=False)
    with pytest.raises(ContextTooLongError, match=r"6 tokens .* at most 5") as caught:
        write(model, contexts, torch.tensor([1, 6]), 1, create_graph=False)
    assert caught.value.limit == 5


@pytest.mark.parametrize("steps", [-1, 0, 7])
def test_steps_out_of_range_are_refused(
    tiny_model: TinyModel, random_ids: RandomIds, steps: int
) -> None:
    with pytest.raises(WriteStepsError, match="1 to 6") as caught:
        write_lengths(tiny_model(), random_ids(4, 12), steps=steps)
    assert caught.value.limit == 6


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("measure", [False, True])
def test_a_document_that_diverges_is_named(
    tiny_model: TinyModel, random_ids: RandomIds, create_graph: bool, measure: bool
) -> None:
    model = tiny_model(inner_gradient_clip=1.0)
    contexts = random_ids(4, 12)
    contexts[contexts == 5] = 6
    contexts[2, 3] = 5
    with torch.no_grad():
        model.backbone.output_weight[5] = torch.inf  # tied: row 5 of the embedding
    with pytest.raises(NonFiniteLossError, match="1 of 4 documents") as caught:
        write_lengths(model, contexts, create_graph=create_graph, measure=measure)
    assert caught.value.samples == [2]


def test_a_memory_that_leaves_the_finite_numbers_is_refused(
    tiny_model: TinyModel, random_ids: RandomIds
) -> None:
    model = tiny_model(inner_learning_rate=3e38)
    with torch.no_grad():
        model.initial_memory.mul_(1e-3)
    with pytest.raises(NonFiniteLossError) as caught:
        write_lengths(model, random_ids(4, 12), steps=2, measure=False)
    assert caught.value.samples


# The meta-gradient, in float64


class ExactNorm(nn.Module):
    """Llama's norm in the precision of its input; transformers' own rounds to float32."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight = cast("nn.Parameter", norm.weight)
        self.epsilon = cast("float", norm.variance_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        scale: Tensor = (x.square().mean(dim=-1, keepdim=True) + self.epsilon).rsqrt()
        return x * scale * self.weight


def in_float64(model: MemoryModel) -> MemoryModel:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__ == "LlamaRMSNorm":
                setattr(module, name, ExactNorm(child))
    return model.double()


def outer_loss(model: MemoryModel, ids: Tensor, *, second_order: bool = True) -> Tensor:
    """WRITE, READ of two ragged queries each, and the last step's loss, as in meta-training."""
    contexts, queries = ids[:, :9], ids[:, 9:].view(len(ids), 2, 4)
    lengths = torch.tensor([9, 4])
    written = write(model, contexts, lengths, 3, create_graph=second_order)
    # Without the second order the memory is M0 plus a constant.
    start = model.initial_memory
    memory = written.memory if second_order else written.memory + start - start.detach()
    logits = read(model, memory, queries)[:, :, :-1]
    inner = written.losses[:, 2].mean()
    return F.cross_entropy(logits.flatten(0, 2), queries.flatten()) + 0.4 * inner


def groups_of(model: MemoryModel) -> dict[str, list[nn.Parameter]]:
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault(name.split(".")[0], []).append(parameter)
    return groups


def move(parameters: list[nn.Parameter], direction: list[Tensor], step: float) -> None:
    with torch.no_grad():
        for parameter, way in zip(parameters, direction, strict=True):
            parameter.add_(step * way)


def slope(
    model: MemoryModel, ids: Tensor, parameters: list[nn.Parameter], direction: list[Tensor]
) -> Tensor:
    """Central difference of the outer loss along a direction."""
    losses = []
    for step in (EPSILON, -2 * EPSILON):
        move(parameters, direction, step)
        losses.append(outer_loss(model, ids).detach())
    move(parameters, direction, EPSILON)
    return (losses[0] - losses[1]) / (2 * EPSILON)


def directions(parameters: list[nn.Parameter]) -> Iterator[list[Tensor]]:
    """A few random directions of length 1."""
    random = torch.Generator().manual_seed(0)
    for _ in range(3):
        ways = [torch.randn(p.shape, generator=random, dtype=p.dtype) for p in parameters]
        length = torch.stack([way.square().sum() for way in ways]).sum().sqrt()
        yield [way / length for way in ways]


def slope_errors(model: MemoryModel, ids: Tensor, *, second_order: bool) -> dict[str, float]:
    """Return the relative errors of each group's gradient against slopes in random directions."""
    loss = outer_loss(model, ids, second_order=second_order)
    loss.backward()  # type: ignore[no-untyped-call]
    errors: dict[str, float] = {}
    for name, parameters in groups_of(model).items():
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        claimed, measured = [], []
        for direction in directions(parameters):
            parts = [(g * w).sum() for g, w in zip(gradients, direction, strict=True)]
            claimed.append(torch.stack(parts).sum())
            measured.append(slope(model, ids, parameters, direction))
        errors[name] = relative_error(torch.stack(claimed), torch.stack(measured))
    return errors


@pytest.mark.parametrize("variant", ["plain", "language-model head", "everything"])
def test_the_meta_gradient_is_the_slope_of_the_outer_loss(
    tiny_model: TinyModel, random_ids: RandomIds, family: str, variant: str
) -> None:
    settings = VARIANTS[variant] | {"inner_learning_rate": 0.1}
    model = in_float64(tiny_model(family, **settings))
    errors = slope_errors(model, random_ids(2, 17), second_order=True)
    assert errors.keys() >= {"backbone", "initial_memory"}
    assert {name: error for name, error in errors.items() if not error < SLOPE_TOLERANCE} == {}


def test_a_first_order_gradient_is_not_the_slope(
    tiny_model: TinyModel, random_ids: RandomIds, family: str
) -> None:
    model = in_float64(tiny_model(family, **VARIANTS["everything"]))
    errors = slope_errors(model, random_ids(2, 17), second_order=False)
    assert {name: error for name, error in errors.items() if not error > 0.05} == {}
