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
    tokens: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)


class Decoding:
    """Queries of any memories of one model, answered a token at a time, together.

    An answer is the same whoever else is in the batch.

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
        self._logits: Tensor

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
        """Begin answers, running their queries through the backbone.

        Args:
            prefixes: The memory of each query.
            queries: Their token ids, within the checkpoint's limits (see `check_queries`).
            sampling: For each how its tokens are chosen.

        Returns:
            A number for each query, by which `step` and `drop` know it.
        """
        device = self._model.initial_memory.device
        lengths = torch.tensor([len(query) for query in queries], device=device)
        joining = _Columns(self._model, prefixes)
        logits = joining.read(pad_right(queries, 0, device=device), lengths)
        rows = [_Row(next(self._numbers), one, _draws(one)) for one in sampling]
        if self._rows:
            self._columns.join(joining)
            self._logits = torch.cat([self._logits, logits])
        else:
            self._columns, self._logits = joining, logits
        self._seat([*self._rows, *rows])
        return [row.number for row in rows]

    @torch.no_grad()
    def step(self) -> list[Chosen]:
        """Choose the next token of every query; those whose answer it ends leave."""
        tokens, probabilities = self._choose()
        chosen: list[Chosen] = []
        for row, token, probability in zip(
            self._rows, tokens.tolist(), probabilities.tolist(), strict=True
        ):
            row.tokens.append(token)
            row.probabilities.append(probability)
            chosen.append(Chosen(row.number, token, self._answer(row)))
        going = [index for index, one in enumerate(chosen) if one.answer is None]
        self._keep(going)
        if going:
            self._logits = self._columns.append(tokens[going])
        return chosen

    def drop(self, numbers: Collection[int]) -> None:
        """Forget queries that nobody waits for any more."""
        self._keep([i for i, row in enumerate(self._rows) if row.number not in numbers])

    def _keep(self, indices: list[int]) -> None:
        if len(indices) == len(self._rows):
            return
        chosen = torch.tensor(indices, dtype=torch.long, device=self._logits.device)
        self._columns.keep(chosen)
        self._logits = self._logits[chosen]
        self._seat([self._rows[index] for index in indices])

    def _seat(self, rows: list[_Row]) -> None:
        self._rows = rows
        device = self._logits.device
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

    def _choose(self) -> tuple[Tensor, Tensor]:
        """The next token of every row by its own settings, and the model's probability of it."""
        logits = self._logits.float()
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

    def read(self, query_ids: Tensor, lengths: Tensor) -> Tensor:
        """Run the queries `(N, T)`; logits of what follows each, `(N, V)`."""
        rows, tokens = query_ids.shape
        offsets = torch.arange(tokens, device=query_ids.device)
        size = self.seen.shape[1]
        causal = (offsets[None, :] <= offsets[:, None]).expand(rows, -1, -1)  # (N, T, T)
        mask = torch.cat([self.seen[:, None].expand(-1, tokens, -1), causal], dim=2)
        hidden = self.model.backbone.hidden(
            self.model.backbone.embed(query_ids),
            mask=mask[:, None],
            positions=(size + offsets)[None],
            cache=self.cache,
        )
        self.seen = torch.cat([self.seen, offsets < lengths[:, None]], dim=1)
        self.next_position = size + lengths  # (N,)
        last = hidden[torch.arange(rows, device=hidden.device), lengths - 1]  # (N, d)
        return self.model.backbone.logits(last)

    def append(self, token: Tensor) -> Tensor:
        """Append one token `(N,)` to every row; logits of what follows, `(N, V)`."""
        self.seen = torch.cat([self.seen, torch.ones_like(self.seen[:, :1])], dim=1)
        hidden = self.model.backbone.hidden(
            self.model.backbone.embed(token[:, None]),
            mask=self.seen[:, None, None],
            positions=self.next_position[:, None],
            cache=self.cache,
        )
        self.next_position = self.next_position + 1
        return self.model.backbone.logits(hidden[:, -1])

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
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
