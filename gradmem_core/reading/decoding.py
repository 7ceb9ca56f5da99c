"""Answers in the making: queries that join a running batch and leave it between tokens.

A query is asked of the pages of a memory. Each page makes an answer of its own, a row of the batch;
which of them counts is decided when all are finished. With a calibration a first pass tells how
likely a page is to have the answer, and where there are many pages only the best go on.

Shapes: `N` rows, `T` tokens, `d` width, `V` vocabulary.
"""

from collections import deque
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor

from gradmem_core.checkpoints.calibration import Evidence
from gradmem_core.errors import GenerationError
from gradmem_core.model import MemoryModel
from gradmem_core.reading.answers import Answer, ReadingRules, choose_page
from gradmem_core.reading.cache import BatchCache, Prefix
from gradmem_core.reading.preselection import Candidate, Preselection, compute_next_logits

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
class GeneratedToken:
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
        return answers[choose_page(answers, [self.documents[one.page] for one in answers])]


@dataclass(eq=False)
class _Row:
    """The answer of one page to a query, in the making."""

    query: _Query
    page: int
    unread: list[int]
    "Tokens that the backbone has yet to run: the query's at first, then the last of the answer."
    evidence: Evidence | None = None
    "From the first pass; None where there was none."
    first: Tensor | None = None
    "Logits of the answer's first token `(V,)`, from the first pass."
    tokens: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    "Log-probabilities of the tokens."
    draws: torch.Generator | None = field(init=False)

    def __post_init__(self) -> None:
        self.draws = _draws(self.query.sampling)


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
        self._preselections: deque[Preselection] = deque()
        self._queries: dict[int, _Query] = {}
        "Those in a first pass, by their numbers."
        self._numbers = count()
        self._columns: BatchCache

    def __len__(self) -> int:
        """Answers in the making, and pages that may make one still."""
        return len(self._rows) + sum(map(len, self._preselections))

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
        asked = [
            (query, page, prefix)
            for query, prefixes in zip(joining, pages, strict=True)
            for page, prefix in enumerate(prefixes)
        ]
        if self._rules.calibration is None:
            rows = [_Row(query, page, list(query.tokens)) for query, page, _ in asked]
            self._take_in(rows, self._begun(rows, [prefix for *_, prefix in asked]))
        else:
            candidates = [
                Candidate(query.number, page, len(query.documents), query.tokens, prefix)
                for query, page, prefix in asked
            ]
            self._preselections.append(Preselection(self._model, self._rules, candidates))
            self._queries |= {query.number: query for query in joining}
        return [query.number for query in joining]

    @torch.no_grad()
    def step(self) -> list[GeneratedToken]:
        """Choose the next token of every answer; those that it ends leave.

        With a calibration it first goes on with a first pass, and chooses nothing where no answer
        has begun.
        """
        if self._preselections:
            self._preselect()
        if not self._rows:
            return []
        tokens, scores = self._choose(self._next_logits())
        chosen: list[GeneratedToken] = []
        left: list[int] = []
        for place, (row, token, score) in enumerate(
            zip(self._rows, tokens.tolist(), scores.tolist(), strict=True)
        ):
            row.unread = [token]
            row.tokens.append(token)
            row.scores.append(score)
            ended = self._is_ended(row)
            answer = self._finish(row) if ended else None
            chosen.append(GeneratedToken(row.query.number, row.page, token, answer))
            if not ended:
                left.append(place)
        self._keep(left)
        return chosen

    def drop(self, numbers: Collection[int]) -> None:
        """Forget queries that nobody waits for any more."""
        for preselection in self._preselections:
            preselection.drop(numbers)
        self._preselections = deque(one for one in self._preselections if len(one))
        for number in numbers:
            self._queries.pop(number, None)
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

    def _begun(self, rows: list[_Row], prefixes: Sequence[Prefix]) -> BatchCache:
        """Rows whose queries the next step runs, but where others would be padded too much."""
        columns = BatchCache(self._model, prefixes)
        longest = max(len(row.unread) for row in rows)
        if len(self._rows) * (longest - 1) > MOST_PADDING and longest > 1:
            columns.read([row.unread[:-1] for row in rows])
            for row in rows:
                del row.unread[:-1]
        return columns

    def _preselect(self) -> None:
        """Go on with the oldest first pass; the pages that it has chosen begin their answers."""
        oldest = self._preselections[0]
        if not oldest.done:
            oldest.advance()
        if not oldest.done:
            return
        self._preselections.popleft()
        assert oldest.columns is not None
        chosen = [(one.candidate, one) for one in oldest.kept]
        rows = [
            _Row(self._queries[of.query], of.page, [], evidence=one.evidence, first=one.first)
            for of, one in chosen
        ]
        self._take_in(rows, oldest.columns)
        for number in {of.query for of, _ in chosen}:
            del self._queries[number]

    def _take_in(self, rows: list[_Row], columns: BatchCache) -> None:
        for row in rows:
            row.query.waiting += 1
        if self._rows:
            self._columns.join(columns)
        else:
            self._columns = columns
        self._seat([*self._rows, *rows])

    def _next_logits(self) -> Tensor:
        """Logits of every row's next token, `(N, V)`."""
        known = {place: row.first for place, row in enumerate(self._rows) if row.first is not None}
        if len(known) == len(self._rows):
            logits = torch.stack(list(known.values()))
        else:
            tokens = [row.unread for row in self._rows]
            hidden = self._columns.read(tokens)  # (N, T, d)
            logits = compute_next_logits(self._model.backbone, hidden, tokens)
            for place, first in known.items():
                logits[place] = first
        for place in known:
            self._rows[place].first = None
        return logits

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
