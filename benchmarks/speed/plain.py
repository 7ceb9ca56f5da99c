"""A training step written for a GPU in plain torch: what ours is held against.

Adapters are merged into the weights once a step, and joined; everything else is torch's own
operations, differentiated twice by torch. Shapes: `L` layers, `B` contexts, `m` memory vectors, `Q`
queries of each, `T` tokens, `d` width, `H` heads, `G` key-value heads, `w` width of a head, `V`
vocabulary.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gradmem_core.adapters import unwrap_layer
from gradmem_core.model import MemoryModel
from training.loop.batch import IGNORED, Batch

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"Queries, keys and values `(B, H, T, w)` to `(B, H, T, w)`."
Layer = Sequence[Tensor]
"Weights of the two norms, then of each of JOINTS."
JOINTS = {
    "projection": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "output": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


class PlainStep:
    """Whole steps of a model with adapters on in both phases, or none.

    Args:
        model: Of the Llama family.
        dtype: What the layers compute in.
    """

    def __init__(self, model: MemoryModel, dtype: torch.dtype) -> None:
        self._model, self._dtype = model, dtype
        causal_lm: Any = model.backbone.causal_lm
        self._config = causal_lm.config
        self._rotary = causal_lm.base_model.rotary_emb
        self._tokens = causal_lm.get_input_embeddings().weight.to(dtype)
        self._head = model.backbone.output_weight.to(dtype)
        self._last_norm = causal_lm.base_model.norm.weight.to(dtype)

    def gradient(self, batch: Batch, steps: int, write_loss_weight: float) -> None:
        """Add a batch's gradient to the parameters'.

        Args:
            batch: Contexts with their questions.
            steps: Write steps (K).
            write_loss_weight: Weight of the reconstruction loss before the last step.
        """
        merged = self._merged()
        leaves = {
            name: value.detach().requires_grad_(value.requires_grad)
            for name, value in merged.items()
        }
        layers = self._layers(leaves)
        memory, write_losses = self._write(layers, batch, steps)
        hidden = self._read(layers, memory, batch.query_ids)
        labels = batch.labels[:, :, 1:]
        scored = labels != IGNORED
        loss = F.cross_entropy(self._logits(hidden[scored]), labels[scored])
        loss = loss + write_loss_weight * write_losses.mean()
        loss.backward()  # type: ignore[no-untyped-call]
        wanted = {name: value for name, value in merged.items() if value.requires_grad}
        torch.autograd.backward(list(wanted.values()), [leaves[name].grad for name in wanted])

    def _merged(self) -> dict[str, Tensor]:
        """Return the joined weights of all layers, `(L, o, i)` each."""
        return {
            name: torch.cat([self._stacked(part) for part in parts], dim=1)
            for name, parts in JOINTS.items()
        }

    def _stacked(self, name: str) -> Tensor:
        parts = [unwrap_layer(layer.get_submodule(name)) for layer in self._model.backbone.layers]
        weights = torch.stack([weight for weight, _ in parts]).to(self._dtype)
        downs, ups = ([pair[i] for _, pair in parts if pair] for i in (0, 1))
        if not downs:
            return weights
        return weights + torch.bmm(torch.stack(ups), torch.stack(downs)).to(self._dtype)

    def _layers(self, leaves: dict[str, Tensor]) -> list[Layer]:
        norms = (
            [
                unwrap_layer(layer.get_submodule(name))[0].to(self._dtype)
                for layer in self._model.backbone.layers
            ]
            for name in ("input_layernorm", "post_attention_layernorm")
        )
        joints = (leaves[name].unbind() for name in JOINTS)
        return list(zip(*norms, *joints, strict=True))

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        exact = x.float()
        scale = torch.rsqrt(exact.pow(2).mean(dim=-1, keepdim=True) + self._config.rms_norm_eps)
        return (exact * scale).to(self._dtype) * weight

    def _hidden(self, layers: list[Layer], x: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Run the layers: `(B, T, d)` to the final hidden states `(B, T, d)`."""
        heads, key_heads = self._config.num_attention_heads, self._config.num_key_value_heads
        cos, sin = (turn[:, :, None] for turn in self._rotary(x, positions))  # (1, T, 1, w)
        width = cos.shape[-1]
        for first_norm, second_norm, projection, output, gate_up, down in layers:
            joined = F.linear(self._norm(x, first_norm), projection)
            joined = joined.view(*x.shape[:2], -1, width)  # (B, T, H + 2 G, w)
            turned, value = torch.split(joined, [heads + key_heads, key_heads], dim=2)
            left, right = turned.chunk(2, dim=-1)
            turned = turned * cos + torch.cat([-right, left], dim=-1) * sin
            query, key = torch.split(turned, [heads, key_heads], dim=2)
            groups = heads // key_heads
            key, value = (part.repeat_interleave(groups, dim=2) for part in (key, value))
            out = attend(*(part.transpose(1, 2) for part in (query, key, value)))
            x = x + F.linear(out.transpose(1, 2).flatten(2), output)
            gate, up = F.linear(self._norm(x, second_norm), gate_up).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate) * up, down)
        return self._norm(x, self._last_norm)

    def _logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self._head).float()

    def _prefix(self, memory: Tensor) -> Tensor:
        projection = self._model.memory_projection
        return (memory if projection is None else projection(memory)).to(self._dtype)

    def _write(self, layers: list[Layer], batch: Batch, steps: int) -> tuple[Tensor, Tensor]:
        """Return the memories `(B, m, d)` and the losses before the last step `(B,)`."""
        model, ids = self._model, batch.context_ids
        size = model.config.memory_tokens
        places = torch.arange(ids.shape[1], device=ids.device)
        shares = (places < batch.lengths[:, None]) / batch.lengths[:, None]  # (B, T)
        embedded = F.embedding(ids, self._tokens)
        positions = torch.arange(size + ids.shape[1], device=ids.device)[None]
        memory = model.initial_memory.expand(len(ids), -1, -1)
        for _ in range(steps):
            inputs = torch.cat([self._prefix(memory), embedded], dim=1)
            hidden = self._hidden(layers, inputs, positions, _attend_plainly)
            logits = self._logits(hidden[:, size - 1 : -1])
            losses = F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none")
            losses = losses.view_as(ids)
            weights = model.token_weights(hidden[:, size:].float()) * shares
            (gradient,) = torch.autograd.grad(losses, memory, weights, create_graph=True)
            memory = memory - model.inner_learning_rate() * self._clipped(gradient)
        return memory, (losses * shares).sum(dim=1)

    def _clipped(self, gradient: Tensor) -> Tensor:
        limit = self._model.config.inner_gradient_clip
        if limit is None:
            return gradient
        norm: Tensor = torch.linalg.vector_norm(gradient, dim=(1, 2), keepdim=True)
        return gradient * (limit / norm.clamp(min=limit))

    def _read(self, layers: list[Layer], memory: Tensor, query_ids: Tensor) -> Tensor:
        """Return the hidden states of the queries' tokens but the last, `(B, Q, T - 1, d)`."""
        batch, queries, tokens = query_ids.shape
        size, count = memory.shape[1], partial(torch.arange, device=query_ids.device)
        # Query of each place, -1 for the memory's; each sees the memory and itself.
        owner = torch.cat([count(size) * 0 - 1, count(queries).repeat_interleave(tokens)])
        seen = (owner[None] == -1) | (owner[None] == owner[:, None])
        mask = seen & torch.ones_like(seen).tril()
        positions = torch.cat([count(size), size + count(tokens).repeat(queries)])[None]
        embedded = F.embedding(query_ids.flatten(1), self._tokens)
        inputs = torch.cat([self._prefix(memory), embedded], dim=1)

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)

        hidden = self._hidden(layers, inputs, positions, attend)[:, size:]
        return hidden.view(batch, queries, tokens, -1)[:, :, :-1]


def _attend_plainly(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend causally on `(B, H, T, w)`."""
    tokens, width = query.shape[-2:]
    bias = torch.full((tokens, tokens), -torch.inf, device=query.device).triu(1)
    scores = torch.matmul(query * width**-0.5, key.mT).float() + bias
    return torch.matmul(scores.softmax(dim=-1).to(value.dtype), value)
