"""Attention whose derivatives are written out."""

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradmem_core.attention import causal_attention
from gradmem_core.attention.blocks import BLOCK
from gradmem_core.backbone import Backbone, twice_differentiable_attention

SCALE = 0.3


def plain(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    hidden = torch.ones(query.shape[1], query.shape[1], dtype=torch.bool).triu(1)
    scores = (query @ key.mT * scale).masked_fill(hidden, -torch.inf)
    return scores.softmax(dim=-1) @ value


def inputs(tokens: int, *, batch: int = 3, width: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    return [
        torch.randn(batch, tokens, width, generator=generator, dtype=torch.float64).requires_grad_()
        for _ in range(3)
    ]


def derivatives(function: object, tensors: list[Tensor]) -> list[Tensor]:
    """Value, first and second derivatives along fixed directions, for the rows of the output."""
    generator = torch.Generator().manual_seed(0)
    out: Tensor = function(*tensors, SCALE)  # type: ignore[operator]
    to_out = torch.randn(out.shape, generator=generator, dtype=out.dtype)
    first = torch.autograd.grad((out * to_out).sin().sum(), tensors, create_graph=True)
    shape = [g[:, : out.shape[1]].shape for g in first]
    along = [torch.randn(s, generator=generator, dtype=out.dtype) for s in shape]
    scalar = sum(
        ((g[:, : a.shape[1]] * a).sin().sum() for g, a in zip(first, along, strict=True)),
        out.new_zeros(()),
    )
    return [out, *first, *torch.autograd.grad(scalar, tensors)]


@pytest.mark.parametrize("tokens", [1, 5, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 22])
def test_value_and_derivatives_are_those_of_plain_attention(tokens: int) -> None:
    tensors = inputs(tokens)
    for ours, theirs in zip(
        derivatives(causal_attention, tensors), derivatives(plain, tensors), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_inputs_need_not_be_contiguous() -> None:
    tensors = inputs(5)
    turned = [tensor.detach().mT.contiguous().mT.requires_grad_() for tensor in tensors]
    assert not turned[0].is_contiguous()
    for ours, theirs in zip(
        derivatives(causal_attention, turned), derivatives(causal_attention, tensors), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_derivatives_are_finite_differences() -> None:
    tensors = inputs(5, batch=2, width=3)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return causal_attention(query, key, value, SCALE)

    assert torch.autograd.gradcheck(attend, tensors)
    assert torch.autograd.gradgradcheck(attend, tensors)


def test_a_row_does_not_depend_on_what_follows() -> None:
    query, key, value = (t.detach() for t in inputs(BLOCK + 30))
    whole = causal_attention(query, key, value, SCALE)
    part = causal_attention(query[:, :40], key[:, :40], value[:, :40], SCALE)
    torch.testing.assert_close(whole[:, :40], part, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("tokens", [5, BLOCK + 1])
def test_a_token_sees_itself_and_those_before_it(tokens: int) -> None:
    query, key, value = inputs(tokens)
    out = causal_attention(query, key, value, SCALE)
    for row in {0, tokens // 2, tokens - 1}:
        for gradient in torch.autograd.grad(out[:, row].sum(), (key, value), retain_graph=True):
            seen = gradient.abs().sum(dim=-1) > 0  # (N, T)
            assert not seen[:, row + 1 :].any()
        assert seen[:, : row + 1].all()  # every value that it sees counts


def test_padding_on_the_right_changes_no_derivative_of_the_rest() -> None:
    tensors = inputs(BLOCK + 30)
    parts = [tensor.detach()[:, :40].clone().requires_grad_() for tensor in tensors]

    def first_40(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        return causal_attention(query, key, value, scale)[:, :40]

    for whole, part in zip(
        derivatives(first_40, tensors), derivatives(first_40, parts), strict=True
    ):
        torch.testing.assert_close(whole[:, :40], part, rtol=1e-10, atol=1e-12)
        assert not whole[:, 40:].any()


@pytest.mark.parametrize("key_value_heads", [1, 2, 4])
def test_a_backbone_computes_the_same_with_it(key_value_heads: int) -> None:
    settings = {
        "model_type": "llama",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": key_value_heads,
        "vocab_size": 11,
        "max_position_embeddings": 128,
    }
    backbone = Backbone.from_config(settings, seed=1)
    embedded = backbone.embed(
        torch.randint(11, (2, 90), generator=torch.Generator().manual_seed(1))
    )
    outside = backbone.hidden(embedded)
    with sdpa_kernel(SDPBackend.MATH):
        unfused = backbone.hidden(embedded)
    with twice_differentiable_attention():
        inside = backbone.hidden(embedded)
    torch.testing.assert_close(inside, outside, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(inside, unfused, rtol=1e-5, atol=1e-5)
