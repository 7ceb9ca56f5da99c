"""READ after WRITE against the same backbone with the document in its KV cache, or in full.

All three answer greedily with `ANSWER_TOKENS` tokens by the same loop. Only the work of the device
is timed: nothing of the service, the tokenizer or the sampling.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.greedy import decode_greedily
from benchmarks.rows import BreakEven
from benchmarks.serving.documents import draw_documents, tokenize
from benchmarks.timing import Work, alternate
from gradmem_core.backbone import Backbone, Cache, KeysAndValues
from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from gradmem_core.writing.descent import write
from training.tasks.base import Example

LENGTHS = (4, 8, 16, 32, 64, 96)
"Pairs of a document."
BATCHES = (1, 32)
"Documents at once."
ANSWER_TOKENS = 3
"The two symbols of a value and the mark that ends it."
BYTES = torch.float32.itemsize


def measure_break_even(name: str, *, runs: int, seed: int) -> tuple[list[BreakEven], list[str]]:
    """Measure every length that a checkpoint takes; the notes name those that it does not.

    Args:
        name: Checkpoint, a folder or a bundled name.
        runs: Rows of each length and batch.
        seed: Seed of the documents.
    """
    checkpoint = load_checkpoint(name)
    limit = checkpoint.model.config.max_context_tokens
    rows: list[BreakEven] = []
    notes: list[str] = []
    for pairs in LENGTHS:
        documents = draw_documents(max(BATCHES), pairs=pairs, seed=seed)
        tokens = len(checkpoint.tokenizer.encode(documents[0].context))
        if tokens > limit:
            notes.append(
                f"break-even: {pairs} pairs are {tokens} tokens, beyond the {limit} that"
                f" {checkpoint.name} takes"
            )
            continue
        for batch in BATCHES:
            rows += _measure_batch(checkpoint, documents[:batch], pairs, runs)
    return rows, notes


def _measure_batch(
    checkpoint: Checkpoint, documents: Sequence[Example], pairs: int, runs: int
) -> list[BreakEven]:
    model, text = checkpoint.model, documents[0].context
    tokens = len(checkpoint.tokenizer.encode(text))
    seconds = alternate(works_of(checkpoint, documents), runs)
    return [
        BreakEven(
            measurement="break-even",  # mypy cannot know that no time has this name
            pairs=pairs,
            tokens=tokens,
            batch=len(documents),
            steps=model.config.write_steps,
            memory_bytes=model.initial_memory.numel() * BYTES,
            cache_bytes=tokens * model.backbone.cache_elements_per_token * BYTES,
            text_bytes=len(text.encode()),
            **{name: of_work[run] / len(documents) for name, of_work in seconds.items()},
        )
        for run in range(runs)
    ]


def works_of(checkpoint: Checkpoint, documents: Sequence[Example]) -> dict[str, Work]:
    """Return the works that are timed, by the names of `BreakEven`'s fields.

    Args:
        checkpoint: Writes and answers.
        documents: A batch, all of one length; each is asked its first question.
    """
    model, backbone = checkpoint.model, checkpoint.model.backbone
    ids, lengths = tokenize(checkpoint, documents)
    queries = torch.tensor(
        [checkpoint.tokenizer.encode(document.questions[0].query) for document in documents]
    )
    steps = model.config.write_steps
    memory = write(model, ids, lengths, steps, create_graph=False).memory
    room = make_room(prefill(backbone, ids), queries.shape[1] + ANSWER_TOKENS)
    embed = backbone.embed

    return {
        "write": lambda: write(model, ids, lengths, steps, create_graph=False),
        "read": lambda: answer(backbone, [model.prefix(memory), embed(queries)], room),
        "prefill": lambda: prefill(backbone, ids),
        "cached": lambda: answer(backbone, [embed(queries)], room, held=ids.shape[1]),
        "reread": lambda: answer(backbone, [embed(ids), embed(queries)], room),
    }


@torch.no_grad()
def prefill(backbone: Backbone, ids: Tensor) -> KeysAndValues:
    """Return the keys and values of documents `(B, T)`, all of one length."""
    cache = backbone.new_cache()
    backbone.hidden(backbone.embed(ids), cache=cache)
    return backbone.unpack_cache(cache)


@torch.no_grad()
def answer(
    backbone: Backbone, inputs: Sequence[Tensor], room: KeysAndValues, *, held: int = 0
) -> Tensor:
    """Return the `ANSWER_TOKENS` likeliest tokens after inputs, `(B, tokens)`.

    Args:
        backbone: Answers.
        inputs: Vectors `(B, T, d)`, one behind the other.
        room: The cache's room.
        held: Tokens that it holds already.
    """
    embeddings = torch.cat([*inputs], dim=1)
    return decode_greedily(backbone, embeddings, CacheInPlace(room, held), tokens=ANSWER_TOKENS)


def make_room(layers: KeysAndValues, tokens: int) -> KeysAndValues:
    """Return keys and values with room for so many tokens more."""
    return [(F.pad(k, (0, 0, 0, tokens)), F.pad(v, (0, 0, 0, tokens))) for k, v in layers]


class CacheInPlace(Cache):
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

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *_: Any,  # noqa: ANN401 (what other kinds of caches want)
        **__: Any,  # noqa: ANN401
    ) -> tuple[Tensor, Tensor]:
        """Take over a layer's new keys and values; return all of them."""
        keys, values = self._room[layer_idx]
        start, end = self._held[layer_idx], self._held[layer_idx] + key_states.shape[2]
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        self._held[layer_idx] = end
        return keys[:, :, :end], values[:, :, :end]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the tokens that it holds."""
        return self._held[layer_idx]

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Return the tokens that a mask spans, and where it begins."""
        return self._held[layer_idx] + query_length, 0
