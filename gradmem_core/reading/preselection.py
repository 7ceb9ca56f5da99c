"""The first pass of READ: how likely each page is to answer a query, before any answer is made.

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

TOKENS = 256
"Most tokens of queries that are run at a time, padding included; one query may pass it."
SCORED = 64
"Most positions that have logits at a time where the probability of queries is wanted."


@dataclass(eq=False)
class Candidate:
    """A page that a query is asked of."""

    query: int
    "The query's number."
    page: int
    "Which of its pages, from 0."
    pages: int
    "How many they are."
    tokens: Sequence[int]
    "The query's."
    prefix: Prefix


@dataclass(eq=False)
class ScoredCandidate:
    """A candidate whose query was run."""

    candidate: Candidate
    evidence: Evidence
    score: float
    "Log-odds that the page answers the query."
    first: Tensor
    "Logits of the answer's first token, `(V,)`."


class Preselection:
    """Runs queries on their pages, a part at each call, and keeps the likeliest of each query.

    What is kept does not depend on the parts.

    Args:
        model: Backbone, M0 and write side.
        rules: The checkpoint's; they have a calibration.
        candidates: At least one.
    """

    def __init__(
        self, model: MemoryModel, rules: ReadingRules, candidates: Sequence[Candidate]
    ) -> None:
        self._model = model
        self._rules = rules
        self._waiting = list(candidates)
        self.kept: list[ScoredCandidate] = []
        "In the order of the candidates."
        self.columns: BatchCache | None = None
        "Their rows; None where there are none."

    def __len__(self) -> int:
        """Pages that may answer still."""
        return len(self._waiting) + len(self.kept)

    @property
    def done(self) -> bool:
        """Whether every candidate was run."""
        return not self._waiting

    @torch.no_grad()
    def advance(self) -> None:
        """Run the next part."""
        size = self._part()
        part, left = self._waiting[:size], self._waiting[size:]
        columns = BatchCache(self._model, [one.prefix for one in part])
        scored = self._run(part, columns)
        if self.columns is None:
            self.columns = columns
        else:
            self.columns.join(columns)
        self._waiting = left
        self.kept += scored
        self._keep(self._best())

    def drop(self, numbers: Collection[int]) -> None:
        """Forget queries."""
        self._waiting = [one for one in self._waiting if one.query not in numbers]
        kept = enumerate(self.kept)
        self._keep([place for place, one in kept if one.candidate.query not in numbers])

    def _part(self) -> int:
        """How many of those that wait are run together."""
        longest = 0
        for count, candidate in enumerate(self._waiting):
            longest = max(longest, len(candidate.tokens))
            if count and (count + 1) * longest > TOKENS:
                return count
        return len(self._waiting)

    def _run(self, part: Sequence[Candidate], columns: BatchCache) -> list[ScoredCandidate]:
        """Run queries to their end, and note what that shows."""
        assert self._rules.calibration is not None
        backbone = self._model.backbone
        tokens = [one.tokens for one in part]
        hidden = columns.read(tokens)  # (N, T, d)
        queries = [0.0] * len(part)
        if self._rules.weighs_queries:
            queries = score_queries(backbone, hidden, tokens)
        logits = compute_next_logits(backbone, hidden, tokens)  # (N, V)
        absent = [0.0] * len(part)
        if self._rules.absent_start is not None:
            absent = logits.log_softmax(dim=-1)[:, self._rules.absent_start].tolist()
        scored = []
        for place, one in enumerate(part):
            evidence = Evidence(queries[place], absent[place])
            score = self._rules.calibration.page.score(evidence, pages=one.pages)
            # A copy: a view would keep the whole part's logits.
            scored.append(ScoredCandidate(one, evidence, score, logits[place].clone()))
        return scored

    def _best(self) -> list[int]:
        """Places of those that are among the likeliest of their query."""
        places: dict[int, list[tuple[float, int]]] = {}
        for place, one in enumerate(self.kept):
            places.setdefault(one.candidate.query, []).append((-one.score, place))
        best = [sorted(of_query)[: self._rules.candidates] for of_query in places.values()]
        return sorted(place for of_query in best for _, place in of_query)

    def _keep(self, places: list[int]) -> None:
        if self.columns is None or len(places) == len(self.kept):
            return
        self.kept = [self.kept[place] for place in places]
        if self.kept:
            self.columns.keep(places)
        else:
            self.columns = None


def compute_next_logits(
    backbone: Backbone, hidden: Tensor, tokens: Sequence[Sequence[int]]
) -> Tensor:
    """Logits of what follows the last token of each row.

    Args:
        backbone: What made the hidden states.
        hidden: Hidden states of the rows' tokens, `(N, T, d)`.
        tokens: The tokens; a row may have none, and its logits mean nothing then.

    Returns:
        `(N, V)`, float32.
    """
    last = torch.tensor([max(len(row) - 1, 0) for row in tokens], device=hidden.device)
    ends = hidden.take_along_dim(last[:, None, None], dim=1)[:, 0]  # (N, d)
    return backbone.logits(ends).float()


def score_queries(
    backbone: Backbone, hidden: Tensor, tokens: Sequence[Sequence[int]]
) -> list[float]:
    """Mean log-probability of each query's tokens but the first, 0 where there is no other.

    The first one's was the memory's to tell; a template makes it the same for all queries.

    Args:
        backbone: What made the hidden states.
        hidden: Hidden states of the tokens, `(N, T, d)`.
        tokens: The queries.
    """
    ids = pad_right(tokens, 0, device=hidden.device)  # (N, T)
    counts = torch.tensor([len(row) - 1 for row in tokens], device=hidden.device)  # (N,)
    places = torch.arange(ids.shape[1] - 1, device=hidden.device)  # (T - 1,)
    told = places < counts[:, None]  # (N, T - 1)
    states, targets = hidden[:, :-1][told], ids[:, 1:][told]  # all positions (P, d), (P,)
    losses = [
        F.cross_entropy(backbone.logits(some).float(), wanted, reduction="none")
        for some, wanted in zip(
            torch.split(states, SCORED), torch.split(targets, SCORED), strict=True
        )
    ]
    scores = torch.zeros(told.shape, device=hidden.device)
    scores[told] = -torch.cat(losses)
    means: list[float] = (scores.sum(dim=1) / counts.clamp(min=1)).tolist()
    return means
