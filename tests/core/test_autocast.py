"""WRITE and its outer gradient with the transformer's products in bfloat16."""

import pytest
import torch
from torch import Tensor, nn

from gradmem_core.backbone import Backbone
from gradmem_core.config import MemoryConfig
from gradmem_core.model import MemoryModel
from gradmem_core.reading.scoring import read
from gradmem_core.writing.descent import write

IDS = torch.randint(0, 32, (3, 20), generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([20, 13, 7])


def a_model(model_type: str) -> MemoryModel:
    settings = {
        "model_type": model_type,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "vocab_size": 32,
    }
    if model_type == "gpt2":
        settings = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2}
        settings |= {"n_positions": 64, "vocab_size": 32}
    config = MemoryConfig(
        memory_tokens=4,
        write_steps=2,
        inner_learning_rate=0.05,
        inner_learning_rate_per_element=True,
        token_weights=True,
        max_context_tokens=32,
        max_query_tokens=8,
        max_answer_tokens=8,
    )
    return MemoryModel(Backbone.from_config(settings, seed=0), config, seed=0)


def memory_and_gradients(
    model: MemoryModel, dtype: torch.dtype | None, *, recompute: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    model.backbone.autocast = dtype
    written = write(model, IDS, LENGTHS, 2, create_graph=True, recompute=recompute, measure=False)
    logits = read(model, written.memory, IDS[:, None, :6])
    logits.float().logsumexp(dim=-1).sub(logits[..., 3]).mean().backward()  # type: ignore[no-untyped-call]
    model.backbone.autocast = None
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return written.memory.detach(), gradients


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_gradients_are_near_those_of_float32(model_type: str) -> None:
    model = a_model(model_type)
    memory, expected = memory_and_gradients(model, None)
    low, gradients = memory_and_gradients(model, torch.bfloat16)
    assert low.dtype == torch.float32
    assert not torch.equal(low, memory)
    moved = memory - model.initial_memory.detach()
    assert (low - memory).norm() < 0.03 * moved.norm()
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        assert (gradient - expected[name]).norm() < 0.05 * expected[name].norm(), name


def test_the_update_keeps_what_bfloat16_would_lose() -> None:
    model = a_model("llama")
    with torch.no_grad():
        model.initial_memory.add_(1.0)
        assert model.log_inner_learning_rate is not None
        model.log_inner_learning_rate.fill_(-7.0)
    start = model.initial_memory.detach()
    memory, _ = memory_and_gradients(model, torch.bfloat16)
    assert torch.equal(memory.bfloat16(), start.bfloat16().expand_as(memory))
    assert (memory != start).float().mean() > 0.5


def test_recomputed_steps_have_the_same_precision() -> None:
    model = a_model("llama")
    memory, kept = memory_and_gradients(model, torch.bfloat16)
    again, recomputed = memory_and_gradients(model, torch.bfloat16, recompute=True)
    # torch sums bfloat16 in another order where no graph is kept.
    moved = memory - model.initial_memory.detach()
    assert (again - memory).norm() < 0.01 * moved.norm()
    for name, gradient in recomputed.items():
        assert (gradient - kept[name]).norm() < 0.02 * kept[name].norm(), name


def test_the_transformer_computes_in_bfloat16_and_nothing_else_does() -> None:
    model, seen = a_model("llama"), dict[str, torch.dtype]()

    def note(name: str) -> None:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            seen[name] = output.dtype

        model.get_submodule(name).register_forward_hook(hook)

    note("backbone.causal_lm.model.layers.0.mlp.up_proj")
    note("backbone.causal_lm.lm_head")
    memory_and_gradients(model, torch.bfloat16)
    assert list(seen.values()) == [torch.bfloat16, torch.float32]
