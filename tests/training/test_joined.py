"""The fast step against the ordinary model, which runs adapters beside every layer."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from gradmem_core import write as write_module
from gradmem_core.backbone import Backbone
from gradmem_core.config import AdapterConfig, MemoryConfig, Phases
from gradmem_core.model import MemoryModel
from training import joined
from training.batch import IGNORED, Batch
from training.joined import JoinedModel, can_join
from training.step import outer_loss
from training.writers.gradmem import GradMem

VOCABULARY = 37
LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "vocab_size": VOCABULARY,
    "pad_token_id": 2,
}
Gradients = dict[str, Tensor]


def build(
    phases: Phases | None = "both",
    *,
    frozen: bool = True,
    dtype: torch.dtype = torch.float64,
    backbone: dict[str, Any] | None = None,
    **memory: Any,
) -> MemoryModel:
    """A model none of whose weights is zero or one."""
    config = MemoryConfig(
        memory_tokens=3,
        write_steps=2,
        inner_learning_rate=0.1,
        inner_learning_rate_per_element=True,
        adapter=None if phases is None else AdapterConfig(rank=2, phases=phases),
        max_context_tokens=60,
        max_query_tokens=8,
        max_answer_tokens=8,
        **{"write_head": False, "token_weights": True, "memory_projection": True, **memory},
    )
    model = MemoryModel(Backbone.from_config(LLAMA | (backbone or {}), seed=1), config, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    if frozen:
        model.train_write_side()
    return model.to(dtype)


def batch(seed: int, *, contexts: int = 3, tokens: int = 7) -> Batch:
    """Random contexts of several lengths, with two questions each."""
    generator = torch.Generator().manual_seed(seed)

    def ids(*shape: int) -> Tensor:
        return torch.randint(VOCABULARY, shape, generator=generator)

    queries = ids(contexts, 2, 5)
    labels = queries.where(torch.arange(5) >= 3, IGNORED)
    lengths = torch.arange(tokens, tokens - contexts, -1)
    return Batch(ids(contexts, tokens), lengths, queries, labels)


def differentiate(
    writer: GradMem, batches: list[Batch], steps: int, ready: Callable[[], None] = lambda: None
) -> tuple[list[Tensor], Gradients]:
    """Losses of batches, and the sum of their gradients by the parameters that have one."""
    losses = []
    for part in batches:
        outcome = outer_loss(writer, part, steps=steps, write_loss_weight=0.3)
        outcome.loss.backward()  # type: ignore[no-untyped-call]
        losses.append(outcome.loss.detach())
    ready()
    return losses, {}


def gradients(model: MemoryModel) -> Gradients:
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def distance(found: Tensor, expected: Tensor) -> float:
    """Relative to the norm of what is expected, which is not zero."""
    return float((found - expected).norm() / expected.norm())


def both(
    model: MemoryModel,
    batches: list[Batch],
    steps: int,
    *,
    dtype: torch.dtype = torch.float64,
    recompute: bool = False,
    low_rank: bool = True,
) -> tuple[list[tuple[Tensor, Tensor]], dict[str, tuple[Tensor, Tensor]]]:
    """Losses and gradients of the joined step beside those of the ordinary model."""
    expected, _ = differentiate(GradMem(model), batches, steps)
    of_model = gradients(model)
    fast = JoinedModel(model, dtype, low_rank=low_rank)
    found, _ = differentiate(GradMem(fast.view, recompute=recompute), batches, steps, fast.push)
    of_view = gradients(model)
    assert of_view.keys() == of_model.keys()
    return (
        list(zip(found, expected, strict=True)),
        {name: (of_view[name], of_model[name]) for name in of_model},
    )


KINDS: list[tuple[Phases | None, bool]] = [
    *product(("both", "write", "read"), (True, False)),
    (None, False),
    (None, True),
]


@pytest.mark.parametrize("low_rank", [True, False])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("phases", "frozen"), KINDS)
def test_losses_and_gradients_are_those_of_the_ordinary_model(
    phases: Phases | None, frozen: bool, recompute: bool, low_rank: bool
) -> None:
    model = build(phases, frozen=frozen)
    for steps in (1, 2, 3):
        losses, grads = both(
            model, [batch(steps), batch(9)], steps, recompute=recompute, low_rank=low_rank
        )
        for found, expected in losses:
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
        for name, (found, expected) in grads.items():
            assert distance(found, expected) < 1e-5, name
