"""The fast step against the ordinary model, which runs adapters beside every layer."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from gradmem_core.backbone import Backbone
from gradmem_core.config import AdapterConfig, MemoryConfig, Phases
from gradmem_core.model import MemoryModel
from training.llama import joined, kernels
from training.llama.fused import Fused
from training.llama.joined import JoinedModel, can_join
from training.llama.passes import KERNELS, PLAIN, compile_passes
from training.loop.batch import IGNORED, Batch
from training.loop.loss import outer_loss
from training.writers.gradmem import GradMem

VOCABULARY = 37
LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "vocab_size": VOCABULARY,
    "pad_token_id": 2,
}


def build(
    phases: Phases | None = "both",
    *,
    frozen: bool = True,
    dtype: torch.dtype = torch.float64,
    backbone: dict[str, Any] | None = None,
    **memory: Any,
) -> MemoryModel:
    """Build a model none of whose weights is 0 or 1."""
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
    """Draw contexts of several lengths, with two questions each."""
    generator = torch.Generator().manual_seed(seed)

    def ids(*shape: int) -> Tensor:
        return torch.randint(VOCABULARY, shape, generator=generator)

    queries = ids(contexts, 2, 5)
    labels = queries.where(torch.arange(5) >= 3, IGNORED)
    lengths = torch.arange(tokens, tokens - contexts, -1)
    return Batch(ids(contexts, tokens), lengths, queries, labels)


def differentiate(writer: GradMem, batches: list[Batch], steps: int) -> list[Tensor]:
    """Return losses of batches; their gradients add up where `backward` leaves them."""
    losses = []
    for part in batches:
        outcome = outer_loss(writer, part, steps=steps, write_loss_weight=0.3)
        outcome.loss.backward()  # type: ignore[no-untyped-call]
        losses.append(outcome.loss.detach())
    return losses


def gradients(model: MemoryModel) -> dict[str, Tensor]:
    """Take the gradients out of a model."""
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def distance(found: Tensor, expected: Tensor) -> float:
    """Return the distance relative to the norm of what is expected, which is not zero."""
    return float((found - expected).norm() / expected.norm())


def hold_against_ordinary(
    model: MemoryModel,
    batches: list[Batch],
    steps: int,
    *,
    dtype: torch.dtype = torch.float64,
    recompute: bool = False,
    low_rank: bool = True,
    fused: Fused | None = None,
    tolerance: float = 1e-5,
) -> None:
    """Compare losses and gradients of the joined step with those of the ordinary model."""
    expected_losses = differentiate(GradMem(model), batches, steps)
    expected = gradients(model)
    fast = JoinedModel(model, dtype, low_rank=low_rank, fused=fused)
    losses = differentiate(GradMem(fast.view, recompute=recompute), batches, steps)
    fast.push()
    found = gradients(model)
    assert found.keys() == expected.keys()
    for loss, expected_loss in zip(losses, expected_losses, strict=True):
        assert distance(loss, expected_loss) < tolerance / 10
    for name, gradient in found.items():
        assert gradient.dtype == expected[name].dtype
        assert distance(gradient, expected[name]) < tolerance, name


KINDS: list[tuple[Phases | None, bool]] = [
    ("both", True),
    ("both", False),
    ("write", True),
    ("write", False),
    ("read", True),
    ("read", False),
    (None, True),
    (None, False),
]


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize(("phases", "frozen"), KINDS)
def test_losses_and_gradients_are_those_of_the_ordinary_model(
    phases: Phases | None, frozen: bool, steps: int
) -> None:
    model, batches = build(phases, frozen=frozen), [batch(steps), batch(9, tokens=11)]
    for recompute, low_rank in ((False, True), (True, True), (steps == 3, False)):
        hold_against_ordinary(model, batches, steps, recompute=recompute, low_rank=low_rank)


def test_kernels_change_nothing() -> None:
    """Interpreted, see tests/conftest.py."""
    in_kernels = {name: getattr(kernels, name) for name in KERNELS}
    hold_against_ordinary(
        build(dtype=torch.float32),
        [batch(3, tokens=11)],
        2,
        dtype=torch.float32,
        fused=Fused(replace(PLAIN, **in_kernels)),
        tolerance=1e-3,
    )


@pytest.mark.parametrize("heads", [(4, 4), (4, 1), (2, 1)])
@pytest.mark.parametrize("tied", [True, False])
def test_heads_and_the_output_head_may_be_shared(heads: tuple[int, int], tied: bool) -> None:
    settings = {
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "tie_word_embeddings": tied,
        "head_dim": 6,
    }
    for frozen in (True, False):
        model = build(frozen=frozen, backbone=settings)
        hold_against_ordinary(model, [batch(4)], 2)


@pytest.mark.parametrize(
    "memory",
    [
        {"write_head": True},
        {"inner_gradient_clip": 0.05},
        {"token_weights": False, "memory_projection": False},
    ],
)
def test_the_write_side_is_the_model_s_own(memory: dict[str, Any]) -> None:
    hold_against_ordinary(build(**memory), [batch(5)], 2)


def test_a_long_context_is_written_by_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joined, "MATERIALISED", 40)
    hold_against_ordinary(build(), [batch(6, tokens=50)], 2)


def test_float32_is_as_exact_as_the_ordinary_model() -> None:
    model = build(dtype=torch.float32)
    hold_against_ordinary(model, [batch(7)], 3, dtype=torch.float32, tolerance=1e-4)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("low_rank", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_bfloat16_stays_near(frozen: bool, low_rank: bool, recompute: bool) -> None:
    hold_against_ordinary(
        build(frozen=frozen, dtype=torch.float32),
        [batch(8)],
        2,
        dtype=torch.bfloat16,
        recompute=recompute,
        low_rank=low_rank,
        tolerance=0.1,
    )


def test_steps_of_an_optimizer_are_followed() -> None:
    ordinary, fast = build("write", frozen=False), build("write", frozen=False)
    joined_model = JoinedModel(fast, torch.float64)
    losses = []
    for model, writer in ((ordinary, GradMem(ordinary)), (fast, GradMem(joined_model.view))):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
        for _ in range(4):
            if model is fast:
                joined_model.refresh()
            losses += differentiate(writer, [batch(1)], 2)
            if model is fast:
                joined_model.push()
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(losses[:4], losses[4:], rtol=1e-6, atol=0)
    assert losses[3] < losses[0] - 0.01


def test_a_step_that_is_given_up_leaves_nothing_behind() -> None:
    model = build()
    fast = JoinedModel(model, torch.float64)
    differentiate(GradMem(fast.view), [batch(1)], 2)
    model.zero_grad()
    fast.refresh()
    differentiate(GradMem(fast.view), [batch(2)], 2)
    fast.push()
    fast.push()  # nothing is counted twice
    found = gradients(model)
    differentiate(GradMem(model), [batch(2)], 2)
    for name, expected in gradients(model).items():
        assert distance(found[name], expected) < 1e-5, name


def test_reading_without_a_mask_is_causal() -> None:
    model = build()
    embedded = model.backbone.embed(batch(3).context_ids)
    view = JoinedModel(model, torch.float64).view.backbone
    torch.testing.assert_close(
        view.hidden(embedded), model.backbone.hidden(embedded), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("failure", [torch.OutOfMemoryError, torch.AcceleratorError])
def test_what_a_device_fails_by_is_not_taken_for_the_compiler_s(
    failure: type[RuntimeError],
) -> None:
    def backend(*_: object) -> Callable[..., Any]:
        def run(*_: object) -> None:
            raise failure("unspecified launch failure")

        return run

    view = JoinedModel(build(), torch.float64, fused=Fused(compile_passes(backend))).view.backbone
    with pytest.raises(failure, match="unspecified launch failure"):
        view.hidden(view.embed(batch(3).context_ids))


def test_frozen_weights_have_no_gradient_and_take_no_memory_for_it() -> None:
    view = JoinedModel(build(), torch.float64).view
    trained = {name for name, p in view.backbone.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora" in name or "_down" in name or "_up" in name for name in trained)
    assert all(p.grad is None for p in view.parameters() if not p.requires_grad)


@pytest.mark.parametrize(
    "settings",
    [
        {"attention_bias": True},
        {"mlp_bias": True},
        {"hidden_act": "gelu"},
        {
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
        },
        {"model_type": "qwen2"},
    ],
)
def test_other_backbones_keep_the_ordinary_step(settings: dict[str, Any]) -> None:
    assert can_join(build())
    assert not can_join(build(backbone=settings))
