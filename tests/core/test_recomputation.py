"""WRITE that keeps no step's graph and computes it again: the same gradient in constant memory."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from gradmem_core.model import MemoryModel
from gradmem_core.reading.scoring import read
from gradmem_core.writing.descent import write

TinyModel = Callable[..., MemoryModel]
RandomIds = Callable[..., Tensor]

TOLERANCE = 1e-10
LENGTHS = torch.tensor([9, 1, 12, 4])
EVERYTHING: dict[str, Any] = {
    "memory_projection": True,
    "inner_learning_rate_per_element": True,
    "inner_gradient_clip": 0.4,
    "token_weights": True,
}


def outer_loss(model: MemoryModel, ids: Tensor, steps: int, **how: Any) -> Tensor:
    """WRITE of a padded batch, READ, and the last step's loss, as in meta-training."""
    contexts, queries = ids[:, :12], ids[:, 12:].view(len(ids), 2, 4)
    written = write(model, contexts, LENGTHS, steps, create_graph=True, measure=False, **how)
    logits = read(model, written.memory, queries)[:, :, :-1]
    read_loss = F.cross_entropy(logits.flatten(0, 2), queries.flatten())
    return read_loss + 0.4 * written.losses[:, -1].mean()


def gradients(model: MemoryModel, loss: Tensor) -> dict[str, Tensor | None]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("settings", [{}, EVERYTHING, {"write_head": False}])
def test_every_gradient_is_that_of_the_kept_graph(
    tiny_model: TinyModel,
    random_ids: RandomIds,
    family: str,
    settings: dict[str, Any],
    steps: int,
    second_order: bool,
) -> None:
    # In float64, as three steps amplify float32's rounding to 1e-5 in the tiny Llama.
    model, ids = tiny_model(family, **settings).double(), random_ids(4, 20)
    kept = outer_loss(model, ids, steps, second_order=second_order)
    again = outer_loss(model, ids, steps, second_order=second_order, recompute=True)
    torch.testing.assert_close(again, kept, rtol=TOLERANCE, atol=0)
    expected = gradients(model, kept)
    for name, gradient in gradients(model, again).items():
        wanted = expected[name]
        assert (gradient is None) == (wanted is None), name
        if gradient is not None and wanted is not None:
            assert (gradient - wanted).norm() <= TOLERANCE * wanted.norm(), name


def bytes_of(model: MemoryModel, ids: Tensor, steps: int, *, recompute: bool) -> tuple[int, int]:
    """Return the bytes that a loss keeps, and the peak until its gradient is computed."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as forward:
        loss = outer_loss(model, ids, steps, recompute=recompute)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as backward:
        loss.backward()  # type: ignore[no-untyped-call]
    (held, most), (_, most_backward) = balance(forward), balance(backward)
    model.zero_grad()
    return held, max(most, held + most_backward)


def balance(profiled: profile) -> tuple[int, int]:
    """Bytes allocated and not freed, and their peak."""
    assert profiled.profiler is not None
    assert profiled.profiler.kineto_results is not None
    events = profiled.profiler.kineto_results.events()
    changes = sorted(
        (e.start_ns(), e.nbytes())  # type: ignore[attr-defined]
        for e in events
        if e.name() == "[memory]"
    )
    held = most = 0
    for _, change in changes:
        held += change
        most = max(most, held)
    return held, most


def test_a_step_more_costs_the_memory_that_it_starts_from(
    tiny_model: TinyModel, random_ids: RandomIds, family: str
) -> None:
    model, ids = tiny_model(family, **EVERYTHING), random_ids(4, 20)
    memory = len(ids) * model.initial_memory.nbytes
    held, most = zip(*(bytes_of(model, ids, k, recompute=True) for k in (2, 6)), strict=True)
    assert held[1] - held[0] == 4 * memory
    assert most[1] - most[0] < 5 * memory
    kept, _ = zip(*(bytes_of(model, ids, k, recompute=False) for k in (2, 6)), strict=True)
    assert kept[1] - kept[0] > 100 * 4 * memory


def test_reads_blocks_computed_again_give_the_same_gradient_in_less_memory(
    tiny_model: TinyModel, random_ids: RandomIds, family: str
) -> None:
    model = tiny_model(family, memory_projection=True).double().eval()
    queries = random_ids(4, 2, 6)
    memory = model.initial_memory.expand(4, -1, -1)

    def loss() -> Tensor:
        return read(model, memory, queries).logsumexp(dim=-1).mean()

    def held(how: AbstractContextManager[None]) -> tuple[Tensor, int]:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as forward, how:
            made = loss()
        return made, balance(forward)[0]

    (kept, all_of_it), (again, less) = (
        held(nullcontext()),
        held(model.backbone.gradient_checkpointing()),
    )
    assert less < 0.7 * all_of_it
    assert not any(layer.training for layer in model.backbone.layers)
    expected = gradients(model, kept)
    for name, gradient in gradients(model, again).items():
        wanted = expected[name]
        assert (gradient is None) == (wanted is None), name
        if gradient is not None and wanted is not None:
            torch.testing.assert_close(gradient, wanted, rtol=TOLERANCE, atol=TOLERANCE)


def test_weights_that_changed_before_the_gradient_are_refused(
    tiny_model: TinyModel, random_ids: RandomIds
) -> None:
    model = tiny_model()
    loss = outer_loss(model, random_ids(4, 20), 2, recompute=True)
    with torch.no_grad():
        model.initial_memory.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()  # type: ignore[no-untyped-call]


def test_frozen_parameters_get_no_gradient(tiny_model: TinyModel, random_ids: RandomIds) -> None:
    model = tiny_model(**EVERYTHING)
    model.backbone.requires_grad_(False)
    outer_loss(model, random_ids(4, 20), 2, recompute=True).backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith("backbone."), name


def test_without_a_graph_there_is_nothing_to_compute_again(
    tiny_model: TinyModel, random_ids: RandomIds
) -> None:
    model, contexts = tiny_model(), random_ids(4, 12)
    plain = write(model, contexts, LENGTHS, 2, create_graph=False)
    asked = write(model, contexts, LENGTHS, 2, create_graph=False, recompute=True)
    assert not asked.memory.requires_grad
    assert torch.equal(plain.memory, asked.memory)
