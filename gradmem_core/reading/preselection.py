"""Preselection: the pages of a memory ranked for a query, before any answer is generated.

Shapes: `N` candidates, `P` scored positions, `T` query tokens, `d` width, `V` vocabulary.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gradmem_core.backbone import Backbone
from gradmem_core.checkpoints.calibration import Evidence
from gradmem_core.model import MemoryModel
from gradmem_core.padding import pad_right
from gradmem_core.reading.answers import ReadingRules
from gradmem_core.reading.cache import BatchCache, Prefix

MAX_TOKENS = 256
"Most query tokens of a pass, padding included; a single query may exceed it."
MAX_SCORED = 64
"Most positions whose logits are computed at a time for the probability of queries."


@dataclass(eq=False)
class Candidate:
    """A page that a query is asked of."""

    query: int
    "Number of the query."
    page: int
    "Index of the page, from 0."
    pages: int
    "Number of pages that the query is asked of."
    tokens: Sequence[int]
    "Token ids of the query."
    prefix: Prefix
    "Keys and values of the page."


@dataclass(eq=False)
class ScoredCandidate:
    """A candidate after its query was run."""

    candidate: Candidate
    evidence: Evidence
    score: float
    "Log-odds that the page answers the query."
    first_logits: Tensor
    "Logits of the answer's first token, `(V,)`."


class Preselection:
    """Runs queries on their pages, a part at each call, and keeps the likeliest pages of a query.

    The selection does not depend on the parts.

    Args:
        model: Backbone, M0 and write side.
        rules: Rules of the checkpoint, with a calibration.
        candidates: At least one.
    """

    def __init__(
        self, model: MemoryModel, rules: ReadingRules, candidates: Sequence[Candidate]
    ) -> None:
        self._model = model
        self._rules = rules
        self._waiting = list(candidates)
        self.selected: list[ScoredCandidate] = []
        "The likeliest so far, in the order of the candidates."
        self.cache: BatchCache | None = None
        "Their rows; None where there are none."

    def __len__(self) -> int:
        """Number of pages that may still answer."""
        return len(self._waiting) + len(self.selected)

    @property
    def done(self) -> bool:
        """True once every candidate was run."""
        return not self._waiting

    @torch.no_grad()
    def advance(self) -> None:
        """Run the next part."""
        size = self._part_size()
        part, rest = self._waiting[:size], self._waiting[size:]
        cache = BatchCache(self._model, [candidate.prefix for candidate in part])
        scored = self._score(part, cache)
        if self.cache is None:
            self.cache = cache
        else:
            self.cache.join(cache)
        self._waiting = rest
        self.selected += scored
        self._keep(self._find_best())

    def drop(self, numbers: Collection[int]) -> None:
        """Remove queries."""
        self._waiting = [candidate for candidate in self._waiting if candidate.query not in numbers]
        self._keep(
            [
                place
                for place, scored in enumerate(self.selected)
                if scored.candidate.query not in numbers
            ]
        )

    def _part_size(self) -> int:
        """Return the number of waiting candidates that are run together."""
        longest = 0
        for count, candidate in enumerate(self._waiting):
            longest = max(longest, len(candidate.tokens))
            if count and (count + 1) * longest > MAX_TOKENS:
                return count
        return len(self._waiting)

    def _score(self, part: Sequence[Candidate], cache: BatchCache) -> list[ScoredCandidate]:
        """Run the queries of candidates and score their pages."""
        assert self._rules.calibration is not None
        backbone = self._model.backbone
        tokens = [candidate.tokens for candidate in part]
        hidden = cache.append(tokens)  # (N, T, d)
        queries = [0.0] * len(part)
        if self._rules.weighs_queries:
            queries = score_queries(backbone, hidden, tokens)
        logits = compute_next_logits(backbone, hidden, tokens)  # (N, V)
        absent = [0.0] * len(part)
        if self._rules.absent_start is not None:
            absent = logits.log_softmax(dim=-1)[:, self._rules.absent_start].tolist()
        scored = []
        for place, candidate in enumerate(part):
            evidence = Evidence(queries[place], absent[place])
            score = self._rules.calibration.page.score(evidence, pages=candidate.pages)
            # A copy: a view would keep the logits of the whole part.
            scored.append(ScoredCandidate(candidate, evidence, score, logits[place].clone()))
        return scored

    def _find_best(self) -> list[int]:
        """Find the places of the likeliest candidates of each query."""
        ranked: dict[int, list[tuple[float, int]]] = {}
        for place, scored in enumerate(self.selected):
            ranked.setdefault(scored.candidate.query, []).append((-scored.score, place))
        best = [sorted(of_query)[: self._rules.candidates] for of_query in ranked.values()]
        return sorted(place for of_query in best for _, place in of_query)

    def _keep(self, places: list[int]) -> None:
        """Remove all other candidates that were scored."""
        if self.cache is None or len(places) == len(self.selected):
            return
        self.selected = [self.selected[place] for place in places]
        if self.selected:
            self.cache.keep(places)
        else:
            self.cache = None


def compute_next_logits(
    backbone: Backbone, hidden: Tensor, tokens: Sequence[Sequence[int]]
) -> Tensor:
    """Compute the logits of the token after the last token of each row.

    Args:
        backbone: The backbone that computed the hidden states.
        hidden: Hidden states of the rows' tokens, `(N, T, d)`.
        tokens: Token ids; a row may have none, and its logits mean nothing then.

    Returns:
        `(N, V)`, float32.
    """
    last = torch.tensor([max(len(row) - 1, 0) for row in tokens], device=hidden.device)
    ends = hidden.take_along_dim(last[:, None, None], dim=1)[:, 0]  # (N, d)
    return backbone.logits(ends).float()


def score_queries(
    backbone: Backbone, hidden: Tensor, tokens: Sequence[Sequence[int]]
) -> list[float]:
    """Return the mean log-probability of each query's tokens except the first; 0 for one token.

    The memory alone predicts the first token, which a template makes the same for all queries.

    Args:
        backbone: The backbone that computed the hidden states.
        hidden: Hidden states of the tokens, `(N, T, d)`.
        tokens: Token ids of the queries.
    """
    ids = pad_right(tokens, 0, device=hidden.device)  # (N, T)
    counts = torch.tensor([len(row) - 1 for row in tokens], device=hidden.device)  # (N,)
    places = torch.arange(ids.shape[1] - 1, device=hidden.device)  # (T - 1,)
    scored = places < counts[:, None]  # (N, T - 1)
    states, targets = hidden[:, :-1][scored], ids[:, 1:][scored]  # all positions (P, d), (P,)
    losses = [
        F.cross_entropy(backbone.logits(part).float(), part_targets, reduction="none")
        for part, part_targets in zip(
            torch.split(states, MAX_SCORED), torch.split(targets, MAX_SCORED), strict=True
        )
    ]
    scores = torch.zeros(scored.shape, device=hidden.device)
    scores[scored] = -torch.cat(losses)
    means: list[float] = (scores.sum(dim=1) / counts.clamp(min=1)).tolist()
    return means
