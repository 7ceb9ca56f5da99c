"""Decoding: answers generated in a running batch, which queries join and leave between tokens.

A query is asked of the pages of a memory. Each page generates an answer of its own, a row of the
batch; when all are finished, one of them is chosen. With a calibration, a preselection ranks the
pages first, and of many pages only the best generate an answer.

Shapes: `N` rows, `T` tokens, `d` width, `V` vocabulary.
"""

import math
from collections import deque
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor

from gradmem_core.checkpoints.calibration import Evidence
from gradmem_core.model import MemoryModel
from gradmem_core.reading.answers import Answer, ReadingRules, choose_page
from gradmem_core.reading.cache import BatchCache, Prefix
from gradmem_core.reading.preselection import Candidate, Preselection, compute_next_logits
from gradmem_core.reading.sampling import Sampler, Sampling

MAX_PADDING = 32
"Most padding of running answers beside queries; beyond it the queries get a pass of their own."


@dataclass(frozen=True)
class GeneratedToken:
    """The next token of a page's answer to a query."""

    query: int
    "Number of the query, from `Decoding.join`."
    page: int
    "Index of the page, from 0."
    token: int
    "Token id."
    probability: float
    "Its probability, given the tokens before it."
    answer: Answer | None
    "The answer to the query, if this token ended the last of its pages' answers."


@dataclass(eq=False)
class _Query:
    """A query with the answers of its pages so far."""

    number: int
    tokens: list[int]
    sampling: Sampling
    documents: Sequence[Hashable]
    "Identifier of each page's document."
    running: int = 0
    "Pages that are generating an answer."
    answers: list[Answer] = field(default_factory=list)

    def choose_answer(self) -> Answer:
        """Return the answer of the page that counts."""
        answers = sorted(self.answers, key=lambda answer: answer.page)
        return answers[choose_page(answers, [self.documents[answer.page] for answer in answers])]


@dataclass(eq=False)
class _Row:
    """The unfinished answer of a page to a query."""

    query: _Query
    page: int
    unread: list[int]
    "Tokens that the backbone has yet to run: the query's at first, then the answer's last token."
    evidence: Evidence | None = None
    "Log-probabilities from the preselection; None without one."
    first_logits: Tensor | None = None
    "Logits of the answer's first token `(V,)`, from the preselection."
    tokens: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    "Log-probabilities of the tokens."
    generator: torch.Generator | None = field(init=False)

    def __post_init__(self) -> None:
        self.generator = self.query.sampling.make_generator()


class Decoding:
    """A running batch of queries about any memories of a model, answered token by token.

    One pass of the backbone runs the queries that have just joined and the last tokens of the
    running answers. An answer does not depend on the other rows of the batch.

    Args:
        model: Backbone, M0 and write side.
        rules: Rules of the checkpoint.
    """

    def __init__(self, model: MemoryModel, rules: ReadingRules) -> None:
        self._model = model
        self._rules = rules
        self._rows: list[_Row] = []
        self._preselections: deque[Preselection] = deque()
        self._preselected: dict[int, _Query] = {}
        "Queries in a preselection, by their numbers."
        self._numbers = count()
        self._cache: BatchCache
        self._sampler: Sampler

    def __len__(self) -> int:
        """Number of unfinished answers, and of pages that may still start one."""
        return len(self._rows) + sum(map(len, self._preselections))

    @torch.no_grad()
    def join(
        self,
        pages: Sequence[Sequence[Prefix]],
        queries: Sequence[Sequence[int]],
        sampling: Sequence[Sampling],
        documents: Sequence[Sequence[Hashable]] | None = None,
    ) -> list[int]:
        """Add queries to the batch.

        Args:
            pages: Pages that each query is asked of, at least one.
            queries: Token ids of each query, within the checkpoint's limits (see `check_queries`).
            sampling: Sampling settings of each query.
            documents: Identifier of the document of each query's pages; by default all pages are
                of one document.

        Returns:
            The number of each query, which `step` and `drop` use.
        """
        origins = documents or [[None] * len(prefixes) for prefixes in pages]
        joining = [
            _Query(next(self._numbers), list(tokens), settings, of_pages)
            for tokens, settings, of_pages in zip(queries, sampling, origins, strict=True)
        ]
        asked = [
            (query, page, prefix)
            for query, prefixes in zip(joining, pages, strict=True)
            for page, prefix in enumerate(prefixes)
        ]
        if self._rules.calibration is None:
            rows = [_Row(query, page, list(query.tokens)) for query, page, _ in asked]
            self._add_rows(rows, self._start(rows, [prefix for *_, prefix in asked]))
        else:
            candidates = [
                Candidate(query.number, page, len(query.documents), query.tokens, prefix)
                for query, page, prefix in asked
            ]
            self._preselections.append(Preselection(self._model, self._rules, candidates))
            self._preselected |= {query.number: query for query in joining}
        return [query.number for query in joining]

    @torch.no_grad()
    def step(self) -> list[GeneratedToken]:
        """Generate the next token of every answer; finished answers leave the batch.

        With a calibration a part of a preselection runs first, and no token is generated before an
        answer has started.
        """
        if self._preselections:
            self._preselect()
        if not self._rows:
            return []
        tokens, scores = self._sampler.choose(self._next_logits())
        generated: list[GeneratedToken] = []
        unfinished: list[int] = []
        for place, (row, token, score) in enumerate(
            zip(self._rows, tokens.tolist(), scores.tolist(), strict=True)
        ):
            row.unread = [token]
            row.tokens.append(token)
            row.scores.append(score)
            ended = self._is_ended(row)
            answer = self._finish(row) if ended else None
            generated.append(
                GeneratedToken(row.query.number, row.page, token, math.exp(score), answer)
            )
            if not ended:
                unfinished.append(place)
        self._keep(unfinished)
        return generated

    def drop(self, numbers: Collection[int]) -> None:
        """Remove queries that nobody waits for any more."""
        for preselection in self._preselections:
            preselection.drop(numbers)
        self._preselections = deque(filter(len, self._preselections))
        for number in numbers:
            self._preselected.pop(number, None)
        self._keep([i for i, row in enumerate(self._rows) if row.query.number not in numbers])

    def _keep(self, places: list[int]) -> None:
        """Remove all other rows."""
        if len(places) < len(self._rows):
            self._cache.keep(places)
            self._set_rows([self._rows[place] for place in places])

    def _set_rows(self, rows: list[_Row]) -> None:
        self._rows = rows
        self._sampler = Sampler(
            [row.query.sampling for row in rows],
            [row.generator for row in rows],
            self._model.initial_memory.device,
        )

    def _add_rows(self, rows: list[_Row], cache: BatchCache) -> None:
        for row in rows:
            row.query.running += 1
        if self._rows:
            self._cache.join(cache)
        else:
            self._cache = cache
        self._set_rows([*self._rows, *rows])

    def _is_ended(self, row: _Row) -> bool:
        """Tell whether the last token ended the row's answer."""
        longest = row.query.sampling.max_new_tokens
        return row.tokens[-1] in self._rules.stop_ids or len(row.tokens) == longest

    def _finish(self, row: _Row) -> Answer | None:
        """Record a page's answer; return the answer to the query if it was the last."""
        query = row.query
        answer = self._rules.make_answer(
            row.tokens,
            row.scores,
            page=row.page,
            pages=len(query.documents),
            evidence=row.evidence,
        )
        query.answers.append(answer)
        query.running -= 1
        return None if query.running else query.choose_answer()

    def _start(self, rows: list[_Row], prefixes: Sequence[Prefix]) -> BatchCache:
        """Make the cache of new rows; run their queries now if the next step would pad too much."""
        cache = BatchCache(self._model, prefixes)
        longest = max(len(row.unread) for row in rows)
        if len(self._rows) * (longest - 1) > MAX_PADDING and longest > 1:
            cache.append([row.unread[:-1] for row in rows])
            for row in rows:
                del row.unread[:-1]
        return cache

    def _preselect(self) -> None:
        """Run a part of the oldest preselection; at its end the selected pages start answers."""
        oldest = self._preselections[0]
        if not oldest.done:
            oldest.advance()
        if not oldest.done:
            return
        self._preselections.popleft()
        assert oldest.cache is not None
        rows = [
            _Row(
                self._preselected[selected.candidate.query],
                selected.candidate.page,
                [],
                evidence=selected.evidence,
                first_logits=selected.first_logits,
            )
            for selected in oldest.selected
        ]
        self._add_rows(rows, oldest.cache)
        for number in {row.query.number for row in rows}:
            del self._preselected[number]

    def _next_logits(self) -> Tensor:
        """Return the logits of every row's next token, `(N, V)`."""
        first = {
            place: row.first_logits
            for place, row in enumerate(self._rows)
            if row.first_logits is not None
        }
        if len(first) == len(self._rows):
            logits = torch.stack(list(first.values()))
        else:
            tokens = [row.unread for row in self._rows]
            hidden = self._cache.append(tokens)  # (N, T, d)
            logits = compute_next_logits(self._model.backbone, hidden, tokens)
            for place, first_logits in first.items():
                logits[place] = first_logits
        for place in first:
            self._rows[place].first_logits = None
        return logits
