"""Answers in the making: queries that join a running batch and leave it between tokens.

A query is asked of the pages of a memory. Each page makes an answer of its own, a row of the batch;
which of them counts is decided when all are finished. With a calibration a first pass tells how
likely a page is to have the answer, and where there are many pages only the best go on.

Shapes: `N` rows, `P` scored positions, `m` memory vectors, `T` query tokens, `d` width,
`V` vocabulary.
"""

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor
from torch.nn import functional as F

from gradmem_core.answers import Answer, ReadingRules, answering_page
from gradmem_core.calibration import Calibration, Evidence
from gradmem_core.columns import Columns, Prefix
from gradmem_core.errors import GenerationError
from gradmem_core.model import MemoryModel
from gradmem_core.padding import pad_right

MOST_PADDING = 32
"Most padding that tokens under way get beside queries; beyond it those take a pass of their own."
ROWS = 64
"Most pages, of all queries together, that a first pass computes at a time."
SCORED = 64
"Most positions that have logits at a time where the probability of queries is wanted."


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
class Chosen:
    """The next token of one page's answer to a query."""

    query: int
    "The query's number, from `Decoding.join`."
    page: int
    "Which of its pages, from 0."
    token: int
    "Its id."
    answer: Answer | None
    "The answer to the query, where this token ended the last of its pages' answers."


@dataclass(eq=False)
class _Query:
    """A query with what its pages have answered so far."""

    number: int
    tokens: list[int]
    sampling: Sampling
    documents: Sequence[Hashable]
    "Of each page, what tells its document from others."
    waiting: int = 0
    "Pages whose answers are in the making."
    answers: list[Answer] = field(default_factory=list)

    def answer(self) -> Answer:
        """The answer of the page that counts."""
        answers = sorted(self.answers, key=lambda one: one.page)
        return answers[answering_page(answers, [self.documents[one.page] for one in answers])]


@dataclass(eq=False)
class _Row:
    """The answer of one page to a query, in the making."""

    query: _Query
    page: int
    draws: torch.Generator | None
    unread: list[int]
    "Tokens that the backbone has yet to run: the query's at first, then the last of the answer."
    evidence: Evidence | None = None
    "From the first pass; None where there was none."
    first: Tensor | None = None
    "Logits of the answer's first token `(V,)`, from the first pass."
    tokens: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    "Log-probabilities of the tokens."


class Decoding:
    """Queries of any memories of one model, answered a token at a time, together.

    One pass of the backbone runs the queries of those that have joined and the last tokens of
    those that are under way. An answer is the same whoever else is in the batch.

    Args:
        model: Backbone, M0 and write side.
        rules: What ends an answer, and how sure it is.
    """

    def __init__(self, model: MemoryModel, rules: ReadingRules) -> None:
        self._model = model
        self._rules = rules
        self._rows: list[_Row] = []
        self._numbers = count()
        self._columns: Columns

    def __len__(self) -> int:
        """Answers in the making, one for each page of a query."""
        return len(self._rows)

    @torch.no_grad()
    def join(
        self,
        pages: Sequence[Sequence[Prefix]],
        queries: Sequence[Sequence[int]],
        sampling: Sequence[Sampling],
        documents: Sequence[Sequence[Hashable]] | None = None,
    ) -> list[int]:
        """Begin answers.

        Args:
            pages: For each query the pages that it is asked of, at least one.
            queries: Their token ids, within the checkpoint's limits (see `check_queries`).
            sampling: For each how its tokens are chosen.
            documents: For each of its pages what tells its document from others; all are of one
                document by default.

        Returns:
            A number for each query, by which `step` and `drop` know it.
        """
        of_pages = documents or [[None] * len(prefixes) for prefixes in pages]
        joining = [
            _Query(next(self._numbers), list(tokens), one, known)
            for tokens, one, known in zip(queries, sampling, of_pages, strict=True)
        ]
        rows = [
            _Row(query, page, _draws(query.sampling), list(query.tokens))
            for query, prefixes in zip(joining, pages, strict=True)
            for page in range(len(prefixes))
        ]
        prefixes = [prefix for of_query in pages for prefix in of_query]
        if self._rules.calibration is None:
            columns = self._begun(rows, prefixes)
        else:
            rows, columns = self._preselected(rows, prefixes, self._rules.calibration)
        for row in rows:
            row.query.waiting += 1
        if self._rows:
            self._columns.join(columns)
        else:
            self._columns = columns
        self._seat([*self._rows, *rows])
        return [query.number for query in joining]

    @torch.no_grad()
    def step(self) -> list[Chosen]:
        """Choose the next token of every answer; those that it ends leave."""
        tokens, scores = self._choose(self._next_logits())
        chosen: list[Chosen] = []
        left: list[int] = []
        for place, (row, token, score) in enumerate(
            zip(self._rows, tokens.tolist(), scores.tolist(), strict=True)
        ):
            row.unread = [token]
            row.tokens.append(token)
            row.scores.append(score)
            ended = self._is_ended(row)
            answer = self._finish(row) if ended else None
            chosen.append(Chosen(row.query.number, row.page, token, answer))
            if not ended:
                left.append(place)
        self._keep(left)
        return chosen

    def drop(self, numbers: Collection[int]) -> None:
        """Forget queries that nobody waits for any more."""
        self._keep([i for i, row in enumerate(self._rows) if row.query.number not in numbers])

    def _keep(self, places: list[int]) -> None:
        if len(places) == len(self._rows):
            return
        self._columns.keep(places)
        self._seat([self._rows[place] for place in places])

    def _seat(self, rows: list[_Row]) -> None:
        self._rows = rows
        device = self._model.initial_memory.device
        settings = [row.query.sampling for row in rows]
        self._temperature = torch.tensor([one.temperature for one in settings], device=device)
        self._top_p = torch.tensor([one.top_p for one in settings], device=device)

    def _is_ended(self, row: _Row) -> bool:
        """Whether the last token ended the row's answer."""
        longest = row.query.sampling.max_new_tokens
        return row.tokens[-1] in self._rules.stop_ids or len(row.tokens) == longest

    def _finish(self, row: _Row) -> Answer | None:
        """Take in a page's answer; the query's, if it was the last."""
        query = row.query
        answer = self._rules.answer(
            row.tokens,
            row.scores,
            page=row.page,
            pages=len(query.documents),
            evidence=row.evidence,
        )
        query.answers.append(answer)
        query.waiting -= 1
        return None if query.waiting else query.answer()

    # The first pass

    def _begun(self, rows: list[_Row], prefixes: Sequence[Prefix]) -> Columns:
        """Rows whose queries the next step runs, but where others would be padded too much."""
        columns = Columns(self._model, prefixes)
        longest = max(len(row.unread) for row in rows)
        if len(self._rows) * (longest - 1) > MOST_PADDING and longest > 1:
            columns.read([row.unread[:-1] for row in rows])
            for row in rows:
                del row.unread[:-1]
        return columns

    def _preselected(
        self, rows: list[_Row], prefixes: Sequence[Prefix], calibration: Calibration
    ) -> tuple[list[_Row], Columns]:
        """The rows of the pages that are likeliest to answer, their queries run."""
        kept: list[_Row] = []
        columns: Columns | None = None
        for start in range(0, len(rows), ROWS):
            part = rows[start : start + ROWS]
            joining = Columns(self._model, prefixes[start : start + ROWS])
            self._run_queries(part, joining)
            kept += part
            if columns is None:
                columns = joining
            else:
                columns.join(joining)
            places = self._best(kept, calibration)
            if len(places) < len(kept):
                columns.keep(places)
                kept = [kept[place] for place in places]
        assert columns is not None
        return kept, columns

    def _run_queries(self, rows: list[_Row], columns: Columns) -> None:
        """Run the queries of rows to their end, and note what that shows."""
        tokens = [row.unread for row in rows]
        hidden = columns.read(tokens)  # (N, T, d)
        queries = self._query_scores(hidden, tokens) if self._rules.weighs_queries else None
        logits = self._logits_after(hidden, tokens)  # (N, V)
        scores = logits.log_softmax(dim=-1)
        start = self._rules.absent_start
        absent = [0.0] * len(rows) if start is None else scores[:, start].tolist()
        for place, row in enumerate(rows):
            row.evidence = Evidence(0.0 if queries is None else queries[place], absent[place])
            row.first = logits[place].clone()  # not a view, which would keep the whole batch's
            row.unread = []

    def _query_scores(self, hidden: Tensor, tokens: Sequence[Sequence[int]]) -> list[float]:
        """Mean log-probability of each query's tokens but the first.

        The first one's was the prefix's to tell; a template makes it the same for all queries.
        """
        ids = pad_right(tokens, 0, device=hidden.device)  # (N, T)
        counts = torch.tensor([len(one) - 1 for one in tokens], device=hidden.device)  # (N,)
        places = torch.arange(ids.shape[1] - 1, device=hidden.device)  # (T - 1,)
        told = places < counts[:, None]  # (N, T - 1)
        states, targets = hidden[:, :-1][told], ids[:, 1:][told]
        parts = zip(torch.split(states, SCORED), torch.split(targets, SCORED), strict=True)
        losses = [
            F.cross_entropy(self._model.backbone.logits(some).float(), wanted, reduction="none")
            for some, wanted in parts
        ]  # each (P,)
        scores = torch.zeros(told.shape, device=hidden.device)
        scores[told] = -torch.cat(losses)
        means: list[float] = (scores.sum(dim=1) / counts.clamp(min=1)).tolist()
        return means

    def _best(self, rows: list[_Row], calibration: Calibration) -> list[int]:
        """Places of the rows that are among the likeliest of their queries to have the answer."""
        places: dict[int, list[tuple[float, int]]] = {}
        for place, row in enumerate(rows):
            assert row.evidence is not None
            score = calibration.page.score(row.evidence, pages=len(row.query.documents))
            places.setdefault(row.query.number, []).append((-score, place))
        best = [sorted(of_query)[: self._rules.candidates] for of_query in places.values()]
        return sorted(place for of_query in best for _, place in of_query)

    # The next token

    def _next_logits(self) -> Tensor:
        """Logits of every row's next token, `(N, V)`."""
        known = {place: row.first for place, row in enumerate(self._rows) if row.first is not None}
        if len(known) == len(self._rows):
            logits = torch.stack(list(known.values()))
        else:
            tokens = [row.unread for row in self._rows]
            logits = self._logits_after(self._columns.read(tokens), tokens)
            for place, first in known.items():
                logits[place] = first
        for place in known:
            self._rows[place].first = None
        return logits

    def _logits_after(self, hidden: Tensor, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Logits of what follows the last token of each row, `(N, V)`, float32."""
        last = torch.tensor([max(len(one) - 1, 0) for one in tokens], device=hidden.device)
        ends = hidden.take_along_dim(last[:, None, None], dim=1)[:, 0]  # (N, d)
        return self._model.backbone.logits(ends).float()

    def _choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The next token of every row by its own settings, and its log-probability."""
        greedy = logits.argmax(dim=-1)
        token = torch.where(self._temperature > 0, self._drawn(logits), greedy)
        score = logits.log_softmax(dim=-1).gather(1, token[:, None])[:, 0]
        return token, score

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


def _draws(sampling: Sampling) -> torch.Generator | None:
    if sampling.temperature == 0:
        return None
    return torch.Generator().manual_seed(sampling.seed)
