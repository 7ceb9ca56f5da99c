"""READ after WRITE against the same backbone with the document in its KV cache, or in full.

All three answer greedily with `ANSWER_TOKENS` tokens by the same loop. What is timed is the work of
the device alone: nothing of the service, the tokenizer or the sampling.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measurement import Work, alternate
from benchmarks.serving.documents import Document, documents
from benchmarks.serving.inprocess import batch_of
from benchmarks.serving.plan import Plan
from benchmarks.serving.results import ContextRow
from gradmem_core.backbone import Backbone, Cache, KeysAndValues
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.model import MemoryModel
from gradmem_core.writing.descent import write

LENGTHS = (4, 8, 16, 32, 64, 96)
"Pairs of a document."
BATCHES = (1, 32)
"Documents at once."
ANSWER_TOKENS = 3
"The two symbols of a value and the mark that ends it."


def contexts(checkpoint: Checkpoint, plan: Plan) -> tuple[list[ContextRow], list[str]]:
    """Measure every length that the checkpoint takes; its notes name those it does not."""
    rows: list[ContextRow] = []
    notes: list[str] = []
    limit = checkpoint.model.config.max_context_tokens
    for pairs in LENGTHS:
        drawn = documents(max(BATCHES), pairs=pairs, seed=plan.seed)
        tokens = len(checkpoint.tokenizer.encode(drawn[0].text))
        if tokens > limit:
            notes.append(
                f"context: {pairs} pairs are {tokens} tokens, beyond the {limit} that"
                f" {checkpoint.name} takes"
            )
            continue
        for batch in BATCHES:
            rows += _rows(checkpoint, drawn[:batch], pairs, plan.runs)
    return rows, notes


def _rows(checkpoint: Checkpoint, drawn: list[Document], pairs: int, runs: int) -> list[ContextRow]:
    model, count = checkpoint.model, len(drawn)
    works = _works(checkpoint, drawn)
    seconds = alternate(works, runs)
    tokens = len(checkpoint.tokenizer.encode(drawn[0].text))
    return [
        ContextRow(
            pairs=pairs,
            tokens=tokens,
            batch=count,
            steps=model.config.write_steps,
            memory_bytes=model.initial_memory.numel() * torch.float32.itemsize,
            cache_bytes=tokens * model.backbone.cache_elements_per_token * torch.float32.itemsize,
            text_bytes=len(drawn[0].text.encode()),
            **{name: taken[run] / count for name, taken in seconds.items()},
        )
        for run in range(runs)
    ]


def _works(checkpoint: Checkpoint, drawn: list[Document]) -> dict[str, Work]:
    """What is timed, by the names of `ContextRow`'s fields."""
    model = checkpoint.model
    backbone = model.backbone
    batch = batch_of(checkpoint, drawn)
    queries = torch.tensor([checkpoint.tokenizer.encode(one.queries[0]) for one in drawn])
    steps = model.config.write_steps
    memory = write(model, batch.ids, batch.lengths, steps, create_graph=False).memory
    kept = prefilled(backbone, batch.ids)
    room = InPlace.with_room(kept, queries.shape[1] + ANSWER_TOKENS)
    return {
        "write": lambda: write(model, batch.ids, batch.lengths, steps, create_graph=False),
        "read": lambda: read(model, memory, queries, InPlace(room, 0)),
        "prefill": lambda: prefilled(backbone, batch.ids),
        "cached": lambda: cached(backbone, queries, InPlace(room, batch.ids.shape[1])),
        "reread": lambda: reread(backbone, batch.ids, queries, InPlace(room, 0)),
    }


class InPlace(Cache):
    """A cache in tensors that have room for what follows: nothing that it holds is moved.

    Growing it by concatenation, as transformers does, would copy the document for every token.

    Args:
        layers: Keys and values with room behind what they hold, `(B, heads, S, w)`.
        held: Tokens that they hold.
    """

    def __init__(self, layers: KeysAndValues, held: int) -> None:
        super().__init__()
        self._room = layers
        self._held = [held] * len(layers)

    @staticmethod
    def with_room(kept: KeysAndValues, tokens: int) -> KeysAndValues:
        """Keys and values with room for so many tokens more."""
        return [(F.pad(k, (0, 0, 0, tokens)), F.pad(v, (0, 0, 0, tokens))) for k, v in kept]

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *_: Any,  # noqa: ANN401 (what other kinds of caches want)
        **__: Any,  # noqa: ANN401
    ) -> tuple[Tensor, Tensor]:
        """Take over a layer's new keys and values; returns all of them."""
        keys, values = self._room[layer_idx]
        start, end = self._held[layer_idx], self._held[layer_idx] + key_states.shape[2]
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        self._held[layer_idx] = end
        return keys[:, :, :end], values[:, :, :end]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens that it holds."""
        return self._held[layer_idx]

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Tokens that a mask spans, and where it begins."""
        return self._held[layer_idx] + query_length, 0


@torch.no_grad()
def read(model: MemoryModel, memory: Tensor, queries: Tensor, cache: Cache) -> Tensor:
    """Answer queries `(B, T)` from memories `(B, m, d)`, with an empty cache."""
    embeddings = torch.cat([model.prefix(memory), model.backbone.embed(queries)], dim=1)
    return answer(model.backbone, embeddings, cache)


@torch.no_grad()
def prefilled(backbone: Backbone, ids: Tensor) -> KeysAndValues:
    """The keys and values of documents `(B, T)`, all of one length."""
    cache = backbone.new_cache()
    backbone.hidden(backbone.embed(ids), cache=cache)
    return backbone.cached(cache)


@torch.no_grad()
def cached(backbone: Backbone, queries: Tensor, cache: Cache) -> Tensor:
    """Answer queries `(B, T)` with their documents in the cache."""
    return answer(backbone, backbone.embed(queries), cache)


@torch.no_grad()
def reread(backbone: Backbone, ids: Tensor, queries: Tensor, cache: Cache) -> Tensor:
    """Answer queries `(B, T)` with their documents `(B, S)` before them, with an empty cache."""
    return answer(backbone, backbone.embed(torch.cat([ids, queries], dim=1)), cache)


@torch.no_grad()
def answer(backbone: Backbone, embeddings: Tensor, cache: Cache) -> Tensor:
    """The `ANSWER_TOKENS` likeliest tokens after inputs `(B, T, d)` and a cache, `(B, tokens)`."""
    tokens: list[Tensor] = []
    while len(tokens) < ANSWER_TOKENS:
        hidden = backbone.hidden(embeddings, cache=cache)
        tokens.append(backbone.logits(hidden[:, -1]).argmax(dim=-1))
        embeddings = backbone.embed(tokens[-1][:, None])
    return torch.stack(tokens, dim=1)
