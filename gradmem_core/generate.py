"""READ for serving: answers are generated token by token from a memory's keys and values.

Shapes: `B` memories, `N` queries, `m` memory vectors, `T` query tokens, `V` vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gradmem_core.backbone import Cache
from gradmem_core.config import MemoryConfig
from gradmem_core.errors import EmptyQueryError, GenerationError, QueryTooLongError
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


@torch.no_grad()
def generate(
    model: MemoryModel,
    memory: Tensor,
    queries: Sequence[Sequence[int]],
    memory_index: Sequence[int],
    sampling: Sequence[Sampling],
    *,
    stop_ids: Sequence[int],
) -> list[Answer]:
    """Answer queries of different lengths, many of one memory or of many, in one batch.

    The keys and values of each memory are computed once and shared by all of its queries.

    Args:
        model: Backbone, M0 and write side.
        memory: `(B, m, d)`.
        queries: The `N` queries' token ids, each 1 to `max_query_tokens` long.
        memory_index: For each query the row of `memory` that it reads.
        sampling: For each query how its tokens are chosen.
        stop_ids: Tokens that end an answer.

    Returns:
        One answer for each query, the same as when it is read alone.

    Raises:
        EmptyQueryError: A query has no token.
        QueryTooLongError: A query is longer than `max_query_tokens`.
        GenerationError: More tokens are asked for than `max_answer_tokens`.
    """
    check_queries(model, queries, sampling)
    device = memory.device
    lengths = torch.tensor([len(query) for query in queries], device=device)
    decoder = _Decoder(model, memory, torch.tensor(memory_index, device=device))
    logits = decoder.prefill(pad_right(queries, 0, device=device), lengths)
    chooser = _Chooser(sampling, device)
    stop = torch.tensor(list(stop_ids), dtype=torch.long, device=device)
    limit = torch.tensor([s.max_new_tokens for s in sampling], device=device)
    longest = int(limit.max())
    tokens: list[Tensor] = []
    probabilities: list[Tensor] = []
    done = torch.zeros(len(queries), dtype=torch.bool, device=device)
    for step in range(longest):
        token, probability = chooser.choose(logits)  # (N,), (N,)
        tokens.append(token)
        probabilities.append(probability)
        done = done | torch.isin(token, stop) | (limit <= step + 1)
        if bool(done.all()) or step + 1 == longest:
            break
        logits = decoder.step(token)
    return _answers(torch.stack(tokens, 1), torch.stack(probabilities, 1), sampling, set(stop_ids))


def check_query(config: MemoryConfig, tokens: int) -> None:
    """Refuse a query that is empty or beyond the checkpoint's limit.

    Raises:
        EmptyQueryError: There is no token.
        QueryTooLongError: There are more than `max_query_tokens`.
    """
    if tokens < 1:
        raise EmptyQueryError("the query has no token; send at least one")
    if tokens > config.max_query_tokens:
        raise QueryTooLongError(
            f"the query has {tokens} tokens and this checkpoint takes at most"
            f" {config.max_query_tokens}",
            limit=config.max_query_tokens,
        )


def check_queries(
    model: MemoryModel, queries: Sequence[Sequence[int]], sampling: Sequence[Sampling]
) -> None:
    """Refuse queries that are empty or beyond the checkpoint's limits.

    Raises:
        EmptyQueryError: A query has no token.
        QueryTooLongError: A query is longer than `max_query_tokens`.
        GenerationError: More tokens are asked for than `max_answer_tokens`.
    """
    config = model.config
    for tokens in {len(query) for query in queries} or {0}:
        check_query(config, tokens)
    asked = max(s.max_new_tokens for s in sampling)
    if asked > config.max_answer_tokens:
        raise GenerationError(
            f"max_new_tokens is {asked} and this checkpoint answers with at most"
            f" {config.max_answer_tokens}",
            limit=config.max_answer_tokens,
        )


class _Decoder:
    """The key-value cache of `N` rows: `[memory][query, padded][generated]`."""

    def __init__(self, model: MemoryModel, memory: Tensor, memory_index: Tensor) -> None:
        self.model = model
        self.cache: Cache = model.backbone.new_cache()
        model.backbone.hidden(model.prefix(memory), cache=self.cache)
        self.cache.batch_select_indices(memory_index)
        self.seen = torch.ones(
            len(memory_index), memory.shape[1], dtype=torch.bool, device=memory.device
        )

    def prefill(self, query_ids: Tensor, lengths: Tensor) -> Tensor:
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

    def step(self, token: Tensor) -> Tensor:
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


class _Chooser:
    """Chooses the next token of every row by that row's own settings and random stream."""

    def __init__(self, sampling: Sequence[Sampling], device: torch.device) -> None:
        self.device = device
        self.temperature = torch.tensor([s.temperature for s in sampling], device=device)
        self.top_p = torch.tensor([s.top_p for s in sampling], device=device)
        self.streams = [
            torch.Generator().manual_seed(s.seed) if s.temperature > 0 else None for s in sampling
        ]

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Pick tokens from logits `(N, V)`; the tokens and the model's probability of each."""
        logits = logits.float()
        greedy = logits.argmax(dim=-1)
        token = torch.where(self.temperature > 0, self._drawn(logits), greedy)
        probability = logits.softmax(dim=-1).gather(1, token[:, None])[:, 0]
        return token, probability

    def _drawn(self, logits: Tensor) -> Tensor:
        """Inverse-transform sampling inside each row's nucleus (Holtzman et al., 2020)."""
        if not any(self.streams):
            return logits.argmax(dim=-1)
        warm = self.temperature.clamp(min=1e-4)[:, None]
        ordered, tokens = (logits / warm).softmax(dim=-1).sort(dim=-1, descending=True)
        before = ordered.cumsum(dim=-1) - ordered
        kept = before < self.top_p[:, None]
        kept[:, 0] = True  # also where top_p is too small for its dtype
        ordered = ordered * kept
        draws = torch.tensor(
            [float(torch.rand((), generator=s)) if s else 0.0 for s in self.streams],
            device=self.device,
        )
        mass = ordered.cumsum(dim=-1)
        chosen = (mass <= draws[:, None] * mass[:, -1:]).sum(dim=-1)
        return tokens.gather(1, chosen[:, None])[:, 0]


def _answers(
    tokens: Tensor, probabilities: Tensor, sampling: Sequence[Sampling], stop: set[int]
) -> list[Answer]:
    answers = []
    rows = zip(tokens.tolist(), probabilities.tolist(), sampling, strict=True)
    for row, chances, settings in rows:
        limit = min(settings.max_new_tokens, len(row))
        ends = [i for i in range(limit) if row[i] in stop]
        end = ends[0] if ends else limit
        used = chances[: end + 1] if ends else chances[:limit]
        answers.append(Answer(row[:end], sum(used) / len(used), "stop" if ends else "length"))
    return answers
