"""Answers in the making: queries that join a running batch and leave it between tokens.

Shapes: `N` queries in the making, `m` memory vectors, `T` query tokens, `S` columns of the cache
(memory, query, answer), `h` heads, `w` width of a head, `V` vocabulary.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from gradmem_core.backbone import Cache, KeysAndValues
from gradmem_core.errors import GenerationError
from gradmem_core.model import MemoryModel
from gradmem_core.padding import pad_right

MOST_PADDING = 32
"Most padding that tokens under way get beside queries; beyond it those take a pass of their own."


@dataclass(frozen=True)
class Sampling:
    """How an answer's tokens are chosen."""

    max_new_tokens: int
    "Most tokens of the answer, at least 1."
    temperature: float = 0.0
    "0 takes the likeliest token; above, tokens are drawn from the sharpened distribution."
    top_p: float = 1.0
    "Share of the probability mass that tokens are drawn from, in (0, 1]."
    seed: int = 0
    "Seed of the draws; the same seed gives the same answer in any batch."

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            GenerationError: A setting is out of range.
        """
        if self.max_new_tokens < 1:
            raise GenerationError("max_new_tokens must be at least 1", limit=1)
        if not 0 <= self.temperature <= 100:
            raise GenerationError("temperature must be from 0 to 100")
        if not 0 < self.top_p <= 1:
            raise GenerationError("top_p must be above 0 and at most 1")


@dataclass(frozen=True)
class Answer:
    """A generated answer."""

    tokens: list[int]
    "Token ids, without the stop token."
    confidence: float
    "Mean probability of the tokens, the stop token among them, in [0, 1]."
    finish_reason: Literal["stop", "length"]
    "Whether a stop token ended the answer or `max_new_tokens` did."


@dataclass(frozen=True)
class Chosen:
    """The next token of one query."""

    query: int
    "The query's number, from `Decoding.join`."
    token: int
    "Its id."
    answer: Answer | None
    "The whole answer, where this token ended it."


@dataclass(frozen=True)
class Prefix:
    """What the backbone makes of one memory, for all queries that read it."""

    layers: KeysAndValues
    "Of each layer, `(h, m, w)`."

    @property
    def bytes(self) -> int:
        """Bytes that it holds."""
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)


@torch.no_grad()
def prefill(model: MemoryModel, memory: Tensor) -> list[Prefix]:
    """Compute the keys and values of memories `(B, m, d)`."""
    cache = model.backbone.new_cache()
    model.backbone.hidden(model.prefix(memory), cache=cache)
    layers = model.backbone.cached(cache)
    return [
        Prefix([(keys[row].clone(), values[row].clone()) for keys, values in layers])
        for row in range(len(memory))
    ]


@dataclass
class _Row:
    """A query in the making."""

    number: int
    sampling: Sampling
    draws: torch.Generator | None
    unread: list[int]
    "Tokens that the backbone has yet to run: the query's at first, then the last of the answer."
    tokens: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)


class Decoding:
    """Queries of any memories of one model, answered a token at a time, together.

    One pass of the backbone runs the queries of those that have joined and the last tokens of
    those that are under way. An answer is the same whoever else is in the batch.

    Args:
        model: Backbone, M0 and write side.
        stop_ids: Tokens that end an answer.
    """

    def __init__(self, model: MemoryModel, *, stop_ids: Collection[int]) -> None:
        self._model = model
        self._stop_ids = set(stop_ids)
        self._rows: list[_Row] = []
        self._numbers = count()
        self._columns: _Columns

    def __len__(self) -> int:
        """Queries in the making."""
        return len(self._rows)

    @torch.no_grad()
    def join(
        self,
        prefixes: Sequence[Prefix],
        queries: Sequence[Sequence[int]],
        sampling: Sequence[Sampling],
    ) -> list[int]:
        """Begin answers.

        Args:
            prefixes: The memory of each query.
            queries: Their token ids, within the checkpoint's limits (see `check_queries`).
            sampling: For each how its tokens are chosen.

        Returns:
            A number for each query, by which `step` and `drop` know it.
        """
        joining = _Columns(self._model, prefixes)
        rows = [
            _Row(next(self._numbers), one, _draws(one), list(query))
            for query, one in zip(queries, sampling, strict=True)
        ]
        longest = max(map(len, queries))
        if len(self._rows) * (longest - 1) > MOST_PADDING and longest > 1:
            joining.read([row.unread[:-1] for row in rows])
            for row in rows:
                del row.unread[:-1]
        if self._rows:
            self._columns.join(joining)
        else:
            self._columns = joining
        self._seat([*self._rows, *rows])
        return [row.number for row in rows]

    @torch.no_grad()
    def step(self) -> list[Chosen]:
        """Choose the next token of every query; those whose answer it ends leave."""
        logits = self._columns.read([row.unread for row in self._rows])
        tokens, probabilities = self._choose(logits)
        chosen: list[Chosen] = []
        for row, token, probability in zip(
            self._rows, tokens.tolist(), probabilities.tolist(), strict=True
        ):
            row.unread = [token]
            row.tokens.append(token)
            row.probabilities.append(probability)
            chosen.append(Chosen(row.number, token, self._answer(row)))
        self._keep([index for index, one in enumerate(chosen) if one.answer is None])
        return chosen

    def drop(self, numbers: Collection[int]) -> None:
        """Forget queries that nobody waits for any more."""
        self._keep([i for i, row in enumerate(self._rows) if row.number not in numbers])

    def _keep(self, indices: list[int]) -> None:
        if len(indices) == len(self._rows):
            return
        self._columns.keep(indices)
        self._seat([self._rows[index] for index in indices])

    def _seat(self, rows: list[_Row]) -> None:
        self._rows = rows
        device = self._model.initial_memory.device
        self._temperature = torch.tensor([r.sampling.temperature for r in rows], device=device)
        self._top_p = torch.tensor([r.sampling.top_p for r in rows], device=device)

    def _answer(self, row: _Row) -> Answer | None:
        """The row's answer, if its last token ended it."""
        stopped = row.tokens[-1] in self._stop_ids
        if not stopped and len(row.tokens) < row.sampling.max_new_tokens:
            return None
        confidence = sum(row.probabilities) / len(row.probabilities)
        tokens = row.tokens[:-1] if stopped else row.tokens
        return Answer(tokens, confidence, "stop" if stopped else "length")

    def _choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The next token of every row by its own settings, and the model's probability of it."""
        logits = logits.float()
        greedy = logits.argmax(dim=-1)
        token = torch.where(self._temperature > 0, self._drawn(logits), greedy)
        probability = logits.softmax(dim=-1).gather(1, token[:, None])[:, 0]
        return token, probability

    def _drawn(self, logits: Tensor) -> Tensor:
        """Inverse-transform sampling inside each row's nucleus (Holtzman et al., 2020)."""
        streams = [row.draws for row in self._rows]
        if not any(streams):
            return logits.argmax(dim=-1)
        warm = self._temperature.clamp(min=1e-4)[:, None]
        ordered, tokens = (logits / warm).softmax(dim=-1).sort(dim=-1, descending=True)
        before = ordered.cumsum(dim=-1) - ordered
        kept = before < self._top_p[:, None]
        kept[:, 0] = True  # also where top_p is too small for its dtype
        ordered = ordered * kept
        draws = torch.tensor(
            [float(torch.rand((), generator=stream)) if stream else 0.0 for stream in streams],
            device=logits.device,
        )
        mass = ordered.cumsum(dim=-1)
        chosen = (mass <= draws[:, None] * mass[:, -1:]).sum(dim=-1)
        return tokens.gather(1, chosen[:, None])[:, 0]


class _Columns:
    """The key-value cache of `N` rows. A row has not every column: `seen` says which."""

    def __init__(self, model: MemoryModel, prefixes: Sequence[Prefix]) -> None:
        self.model = model
        self.cache: Cache = model.backbone.new_cache(
            [
                (torch.stack([k for k, _ in layer]), torch.stack([v for _, v in layer]))
                for layer in zip(*(prefix.layers for prefix in prefixes), strict=True)
            ]
        )
        size = model.config.memory_tokens
        device = model.initial_memory.device
        self.seen = torch.ones(len(prefixes), size, dtype=torch.bool, device=device)  # (N, S)
        self.next_position = torch.full((len(prefixes),), size, device=device)  # (N,)

    def read(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Append `T` tokens at most to each row; logits of what follows its last, `(N, V)`.

        A row may have none: its logits mean nothing.
        """
        device = self.seen.device
        ids = pad_right(tokens, 0, device=device)  # (N, T)
        lengths = torch.tensor([len(row) for row in tokens], device=device)  # (N,)
        offsets = torch.arange(ids.shape[1], device=device)  # (T,)
        causal = (offsets[None, :] <= offsets[:, None]).expand(len(ids), -1, -1)  # (N, T, T)
        before = self.seen[:, None].expand(-1, len(offsets), -1)  # (N, T, S)
        last = (lengths - 1).clamp(min=0)[:, None]  # (N, 1)
        hidden = self.model.backbone.hidden(
            self.model.backbone.embed(ids),
            mask=torch.cat([before, causal], dim=2)[:, None],
            # Padding repeats the last position: one beyond may be more than the backbone has.
            positions=self.next_position[:, None] + offsets.minimum(last),
            cache=self.cache,
        )  # (N, T, d)
        self.seen = torch.cat([self.seen, offsets < lengths[:, None]], dim=1)
        self.next_position = self.next_position + lengths
        ends = hidden.take_along_dim(last[:, :, None], dim=1)[:, 0]  # (N, d)
        return self.model.backbone.logits(ends)

    def keep(self, indices: list[int]) -> None:
        """Drop all rows but these."""
        rows = torch.tensor(indices, dtype=torch.long, device=self.seen.device)
        self.cache.batch_select_indices(rows)
        self.seen, self.next_position = self.seen[rows], self.next_position[rows]

    def join(self, other: "_Columns") -> None:
        """Take over the rows of another batch, behind one's own."""
        self._close_gaps()
        columns = max(self.seen.shape[1], other.seen.shape[1])
        backbone = self.model.backbone
        pairs = zip(backbone.cached(self.cache), backbone.cached(other.cache), strict=True)
        self.cache = backbone.new_cache(
            [
                (_stacked(mine[0], theirs[0], columns), _stacked(mine[1], theirs[1], columns))
                for mine, theirs in pairs
            ]
        )
        widened = [F.pad(one.seen, (0, columns - one.seen.shape[1])) for one in (self, other)]
        self.seen = torch.cat(widened)
        self.next_position = torch.cat([self.next_position, other.next_position])

    def _close_gaps(self) -> None:
        """Move every row's columns to the left, so that no more are kept than the fullest has."""
        columns = int(self.seen.sum(dim=1).max())
        if columns == self.seen.shape[1]:
            return
        # Keys hold their position, so that their place among the columns says nothing.
        order = self.seen.byte().argsort(dim=1, descending=True, stable=True)[:, :columns]
        index = order[:, None, :, None]  # (N, 1, S, 1)
        self.cache = self.model.backbone.new_cache(
            [
                (keys.take_along_dim(index, dim=2), values.take_along_dim(index, dim=2))
                for keys, values in self.model.backbone.cached(self.cache)
            ]
        )
        self.seen = self.seen.gather(1, order)


def _stacked(upper: Tensor, lower: Tensor, columns: int) -> Tensor:
    """Keys or values `(N, h, S, w)` of two batches as one, padded to a number of columns."""
    return torch.cat([F.pad(x, (0, 0, 0, columns - x.shape[2])) for x in (upper, lower)])


def _draws(sampling: Sampling) -> torch.Generator | None:
    if sampling.temperature == 0:
        return None
    return torch.Generator().manual_seed(sampling.seed)
