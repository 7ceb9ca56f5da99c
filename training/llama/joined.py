"""The fast training step: a view of a model whose layers are few, merged matrices.

Adapters beside every layer take three times the launches of the layers themselves. Their products
stay the same for a whole optimizer step, so they are added to the weights once (`refresh`), and
projections that share an input are joined into one matrix, with the norm before them. WRITE and
READ run on these matrices; their gradient is passed on once to the real parameters (`push`).
Optimizers, clipping, saving and loading see nothing of it.

Shapes: `L` layers, `o` outputs and `i` inputs of a matrix, `r` rank, `B` batch, `T` tokens, `d`
width, `H` heads, `G` key-value heads, `w` width of a head, `V` vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gradmem_core.adapters import unwrap_layer
from gradmem_core.attention import causal_attention
from gradmem_core.backbone import Backbone, Cache
from gradmem_core.model import MemoryModel
from training.llama.fused import Fused, low_rank_linear
from training.llama.passes import passes_for

MATERIALISED = 256
"Most tokens of a WRITE whose attention keeps its weights; longer ones go by blocks of rows."

MATRICES = (
    (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "input_layernorm"),
    (("self_attn.o_proj",), None),
    (("mlp.gate_proj", "mlp.up_proj"), "post_attention_layernorm"),
    (("mlp.down_proj",), None),
)
"""The matrices of a Llama layer: the projections that each joins, and the norm whose weights it
takes in."""

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"Queries `(B, H, T, w)`, keys and values `(B, G, T, w)` to `(B, H, T, w)`."


def can_join(model: nn.Module) -> bool:
    """Return True where a model's backbone is a Llama without options that a view lacks."""
    if not isinstance(model, MemoryModel):
        return False
    config = model.backbone.causal_lm.config
    return (
        config.model_type == "llama"
        and config.hidden_act == "silu"
        and config.rope_parameters["rope_type"] == "default"
        and not (config.attention_bias or config.mlp_bias)
    )


class JoinedModel:
    """A model's view for training.

    Between `refresh` and `push` any number of micro-batches may be differentiated; their gradients
    add up, those of M0 and the write side at once in the parameters. Which parameters are trained,
    and on which device, must be settled before.

    Args:
        model: A model that `can_join`; optimizers, saving and evaluation go on using it.
        dtype: Dtype of the layers. Sums of norms, softmax, losses, memories and the write side keep
            float32 at least.
        low_rank: Take adapters' gradients by products of their rank in place of whole matrices,
            where the weights beside them are frozen: less arithmetic in more operations. By
            default on a CPU.
        fused: Computes the pieces between the matrix products; by default compiled on a GPU.
    """

    view: MemoryModel
    "A model for `write` and `read`: the original M0 and write side over the joined backbone."

    def __init__(
        self,
        model: MemoryModel,
        dtype: torch.dtype = torch.float32,
        *,
        low_rank: bool | None = None,
        fused: Fused | None = None,
    ) -> None:
        device = model.initial_memory.device
        if low_rank is None:
            low_rank = device.type == "cpu"
        fused = fused or Fused(passes_for(device))
        self._backbone = JoinedBackbone(model.backbone, dtype, low_rank=low_rank, fused=fused)
        self.view = model.with_backbone(self._backbone)
        self.refresh()

    def refresh(self) -> None:
        """Merge the current parameters; call before a step's first batch."""
        for leaves in self._backbone.leaves():
            leaves.refresh()

    def push(self) -> None:
        """Pass on the gradient since the last push; call after a step's last batch."""
        for leaves in self._backbone.leaves():
            leaves.push()


class Leaves(nn.Module):
    """Tensors that layers compute with in place of parameters, and their gathered gradient.

    The leaves, and their gradients, are slices of one tensor: no launch brings layers together.

    Args:
        source: Computes a tensor `(L, ...)` of parameters, with its graph.
        dtype: Of the leaves.
        trained: Gather a gradient, if the parameters want one.
    """

    def __init__(
        self, source: Callable[[], Tensor], dtype: torch.dtype, *, trained: bool = True
    ) -> None:
        super().__init__()
        self._source = source
        value = source()
        self._changes = value.requires_grad
        self._stack = value.detach().to(dtype, copy=self._changes)
        self._trained = trained and self._changes
        self._slices = nn.ParameterList(
            nn.Parameter(part, requires_grad=self._trained) for part in self._stack
        )
        self._clear()

    def __getitem__(self, layer: int) -> Tensor:
        return cast("Tensor", self._slices[layer])

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the parameters' values, and drop the gradient."""
        if self._changes:
            self._stack.copy_(self._source())
        self._clear()

    def push(self) -> None:
        """Pass the gradient on to the parameters, and begin another."""
        if self._trained:
            value = self._source()
            torch.autograd.backward(value, self._gradient.to(value.dtype))
            self._clear()

    def _clear(self) -> None:
        """Begin with no gradient; the old gradient's memory may be a parameter's by now."""
        if self._trained:
            self._gradient = torch.zeros_like(self._stack)
            for leaf, part in zip(self._slices, self._gradient, strict=True):
                leaf.grad = part


class Matrix(nn.Module):
    """A joined linear map in every layer.

    Args:
        layers: The transformer's.
        names: The projections that it joins.
        norm: The norm before it, whose weights it takes in; None for none.
        adapted: Add the adapters' products.
        dtype: Dtype of the computation.
        low_rank: Take the adapters' gradients by products of their rank, if the rest is frozen.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        names: Sequence[str],
        norm: str | None,
        dtype: torch.dtype,
        *,
        adapted: bool,
        low_rank: bool,
    ) -> None:
        super().__init__()
        parts = [[unwrap_layer(layer.get_submodule(name)) for name in names] for layer in layers]
        self._parts = [len(weight) for weight, _ in parts[0]]
        self._weights = [[weight for weight, _ in layer] for layer in parts]
        self._factors = [[factors for _, factors in layer if factors] for layer in parts]
        self._norms = (
            [unwrap_layer(layer.get_submodule(norm))[0] for layer in layers] if norm else None
        )
        self._adapted = adapted and any(self._factors)
        self._frozen: Tensor | None = None
        if self._adapted:
            plain = self._stack_weights()
            self._frozen = None if plain.requires_grad else plain
        low_rank = low_rank and self._frozen is not None
        self._weight = Leaves(self._merge, dtype, trained=not low_rank)
        self._down = Leaves(self._stack_down, dtype) if low_rank else None
        self._up = Leaves(self._stack_up, dtype) if low_rank else None

    def forward(self, layer: int, x: Tensor) -> Tensor:
        """Apply the map of a layer: `(B, T, i)` to `(B, T, o)`."""
        if self._down is None or self._up is None:
            return F.linear(x, self._weight[layer])
        factors = (self._down[layer], self._up[layer])
        return low_rank_linear(x, self._weight[layer], *factors, self._parts)

    def _merge(self) -> Tensor:
        """Compute the whole weights `(L, o, i)`."""
        plain = self._stack_weights() if self._frozen is None else self._frozen
        if not self._adapted:
            return plain
        downs = self._stack_down().chunk(len(self._parts), dim=1)
        ups = torch.split(self._stack_up(), self._parts, dim=1)
        products = [torch.bmm(up, down) for up, down in zip(ups, downs, strict=True)]
        return plain + torch.cat(products, dim=1)

    def _stack_weights(self) -> Tensor:
        """Stack the backbone's own weights: `(L, o, i)`."""
        return self._scale_by_norms(torch.stack([torch.cat(layer) for layer in self._weights]))

    def _stack_down(self) -> Tensor:
        """Stack the adapters' A, one above the other: `(L, r, i)` with the sum of their ranks."""
        downs = [torch.cat([down for down, _ in layer]) for layer in self._factors]
        return self._scale_by_norms(torch.stack(downs))

    def _stack_up(self) -> Tensor:
        """Stack the adapters' B, one above the other: `(L, o, r)`."""
        return torch.stack([torch.cat([up for _, up in layer]) for layer in self._factors])

    def _scale_by_norms(self, weights: Tensor) -> Tensor:
        """Multiply `(L, n, i)` by the norms' weights."""
        return weights if self._norms is None else weights * torch.stack(self._norms)[:, None]


class Matrices(nn.Module):
    """All matrices of all layers, with the adapters' products or without (see `Matrix`)."""

    def __init__(
        self, backbone: Backbone, dtype: torch.dtype, *, adapted: bool, low_rank: bool
    ) -> None:
        super().__init__()
        self.projection, self.output, self.gate_up, self.down = (
            Matrix(backbone.layers, names, norm, dtype, adapted=adapted, low_rank=low_rank)
            for names, norm in MATRICES
        )


class JoinedBackbone(Backbone):
    """A Llama whose layers compute with joined, merged matrices.

    With a cache it runs as the ordinary backbone does.

    Args:
        backbone: The ordinary backbone.
        dtype: Dtype of the layers.
        low_rank: See `JoinedModel`.
        fused: See `JoinedModel`.
    """

    def __init__(
        self, backbone: Backbone, dtype: torch.dtype, *, low_rank: bool, fused: Fused
    ) -> None:
        super().__init__(backbone.causal_lm)
        self.adapter = backbone.adapter
        self._dtype = dtype
        self._fused = fused
        phases = backbone.adapter.phases if backbone.adapter else "both"
        make = partial(Matrices, backbone, dtype, low_rank=low_rank)
        self._reading = make(adapted=phases != "write")
        self._writing = self._reading if phases == "both" else make(adapted=phases == "write")
        embedding, head = self._embedding.weight, self._head.weight
        self._tokens = Leaves(lambda: self._embedding.weight[None], dtype)
        self._scores = (
            self._tokens if head is embedding else Leaves(lambda: self._head.weight[None], dtype)
        )
        config = backbone.causal_lm.config
        self._layers: int = config.num_hidden_layers
        self._key_heads: int = config.num_key_value_heads
        self._epsilon: float = config.rms_norm_eps
        self._at_write = False
        self._recompute = False

    def leaves(self) -> Iterator[Leaves]:
        """Return all tensors that are computed from parameters."""
        return (module for module in self.modules() if isinstance(module, Leaves))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Run the transformer for WRITE; outside it runs for READ."""
        self._at_write = True
        try:
            yield
        finally:
            self._at_write = False

    @contextmanager
    def gradient_checkpointing(self) -> Iterator[None]:
        """Keep only the inputs of each block, and compute it again for the gradient."""
        self._recompute = True
        try:
            yield
        finally:
            self._recompute = False

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the layers compute in."""
        return self._dtype

    @property
    def output_weight(self) -> Tensor:
        """The weight of the language-model head, `(V, d)`."""
        return self._scores[0]

    def embed(self, ids: Tensor) -> Tensor:
        """Embed token ids `(B, T)` as vectors `(B, T, d)`."""
        return F.embedding(ids, self._tokens[0], self._embedding.padding_idx)

    def hidden(
        self,
        embeddings: Tensor,
        *,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Run the transformer: the final hidden states `(B, T, d)`, in float32 at least."""
        if cache is not None:
            embeddings = embeddings.to(self.causal_lm.dtype)
            return super().hidden(embeddings, mask=mask, positions=positions, cache=cache)
        cos, sin = self._angles(embeddings, positions)
        attend = self._attend_twice if self._at_write else partial(self._attend_once, mask)
        block = partial(self._block, self._writing if self._at_write else self._reading)
        if self._recompute:
            block = partial(checkpoint, block, use_reentrant=False, preserve_rng_state=False)
        x = embeddings
        for layer in range(self._layers):
            x = block(layer, attend, x, cos, sin)
        return self._fused.normalise(x, self._epsilon) * self._last_norm

    def logits(self, hidden: Tensor) -> Tensor:
        """Apply the language-model head: `(..., d)` to `(..., V)`, in the layers' dtype."""
        return F.linear(hidden.to(self.dtype), self._scores[0])

    def token_losses(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Compute tokens' cross-entropy in float32 at least: `(B, T, V)`, `(B, T)` to `(B, T)`."""
        return self._fused.token_losses(logits, ids)

    def _block(
        self, matrices: Matrices, layer: int, attend: Attend, x: Tensor, cos: Tensor, sin: Tensor
    ) -> Tensor:
        """Run a layer: `(B, T, d)` to `(B, T, d)`."""
        fused = self._fused
        joined = matrices.projection(layer, fused.normalise(x, self._epsilon))
        out = attend(*fused.heads(joined, cos, sin, self._key_heads))  # (B, H, T, w)
        x = x + matrices.output(layer, out.transpose(1, 2).flatten(2))
        gate_up = matrices.gate_up(layer, fused.normalise(x, self._epsilon))
        return x + cast("Tensor", matrices.down(layer, fused.gate(gate_up)))

    def _attend_twice(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend as WRITE does, causally: differentiable twice."""
        scale = query.shape[-1] ** -0.5
        if query.shape[2] <= MATERIALISED:
            return self._fused.attend(query, key, value, scale)
        exact = torch.promote_types(query.dtype, torch.float32)
        shared = (query, *_repeat_heads(query, key, value))
        q, k, v = (x.flatten(0, 1).to(exact) for x in shared)  # (B * H, T, w)
        return causal_attention(q, k, v, scale).to(query.dtype).view_as(query)

    @staticmethod
    def _attend_once(mask: Tensor | None, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend as READ does."""
        key, value = _repeat_heads(query, key, value)
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None
        )

    def _angles(self, x: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return cosines and sines of the angles that rotate heads, `(B or 1, 1, T, w / 2)`."""
        if positions is None:
            positions = torch.arange(x.shape[1], device=x.device)[None]
        rotary = cast("nn.Module", self.causal_lm.base_model.rotary_emb)
        cos, sin = (both[:, None].chunk(2, dim=-1)[0] for both in rotary(x, positions))
        return cos.contiguous(), sin.contiguous()

    @property
    def _embedding(self) -> nn.Embedding:
        return cast("nn.Embedding", self.causal_lm.get_input_embeddings())

    @property
    def _last_norm(self) -> Tensor:
        return unwrap_layer(cast("nn.Module", self.causal_lm.base_model.norm))[0]


def _repeat_heads(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat keys and values `(B, G, T, w)` for every query head: `(B, H, T, w)`."""
    groups = query.shape[1] // key.shape[1]
    return key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
