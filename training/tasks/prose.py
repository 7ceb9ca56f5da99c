"""Prose: windows of passages of a page's length from many sources, asked in words.

The task of the general checkpoint. A context is a window around the pieces that answer a question;
it is asked what it answers, sometimes what it does not answer, and to continue words of its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice
from typing import Literal

import numpy as np

from gradmem_core.checkpoints.manifest import Task
from gradmem_core.errors import DataError
from gradmem_core.tokenizer import Tokenizer
from training.seeds import Split
from training.tasks.base import Example, Question, TrainingTask
from training.tasks.files import PretrainedTask
from training.tasks.passages.base import Passage, PassageQuestion, PassageSource

ABSENT = "not stated"
"The answer to a question that the text does not answer."
LONGEST_ASKED = 64
"Most tokens of a query with its answer: those of a batch are padded to the longest."
CONTINUATION = "\nText:"
SEEN = (4, 10)
"Fewest and most tokens that a continuation is asked for with."
CONTINUED = 16
"Tokens of a continuation; the core asks for as many to check a memory."
CONTINUATIONS = 2
"Most continuations of a context; each has as many tokens as several answers."
FROM_THE_START = 0.15
"Share of the continuations that start with the text and are given none of its words."
NEAR = 0.4
"Share of the unanswerable questions that are the passage's own near misses, where it has some."
TRIES = 50
"Draws that do not fit, after which a size is rejected."

Asks = Literal["all", "answered", "absent"]
"The questions that are asked: all, as in training, or those of one kind, for evaluation."


@dataclass(frozen=True)
class WeightedSource:
    """A source of passages with its weight."""

    source: PassageSource
    weight: float
    "Above 0, relative to the weights of the other sources."


@dataclass(frozen=True)
class Window:
    """A part of a passage."""

    passage: Passage
    first: int
    "Index of its first piece behind the lead."
    last: int
    "Index of its last piece."

    @property
    def text(self) -> str:
        """The text, the passage's lead included."""
        pieces = self.passage.pieces
        lead = pieces[: min(self.passage.lead, self.first)]
        return "".join([*lead, *pieces[self.first : self.last + 1]]).strip()

    def widen(self, *, behind: bool) -> "Window | None":
        """Return the window with one more piece behind or before it; None where there is none."""
        if behind:
            there = self.last + 1 < len(self.passage.pieces)
            return replace(self, last=self.last + 1) if there else None
        return replace(self, first=self.first - 1) if self.first > self.passage.lead else None

    def answers(self, question: PassageQuestion) -> bool:
        """Return True where the window holds all that a question needs."""
        lead = self.passage.lead
        return bool(question.answers) and all(
            place < lead or self.first <= place <= self.last
            for place in range(question.first, question.last + 1)
        )

    def misses(self, question: PassageQuestion) -> bool:
        """Return True where another part of the passage answers a question, but not this part."""
        apart = question.last < self.first or question.first > self.last
        if not question.answers or not apart:
            return False
        text = self.text
        return not any(answer in text for answer in question.answers)


class ProseTask(PretrainedTask):
    """Windows of at most `size` tokens; a size of 1 stands for the pieces that a question needs.

    Args:
        sources: Sources of passages.
        tokenizer: Counts tokens.
        absent: Chance that a context is asked something that it does not answer, 0 to 1.
        longest: Most tokens of any window.
        asks: The questions that are asked.
    """

    name = "prose"
    fails = "digits, codes and names come out mangled where training was short"

    def __init__(
        self,
        sources: Sequence[WeightedSource],
        tokenizer: Tokenizer,
        *,
        absent: float,
        longest: int,
        asks: Asks = "all",
    ) -> None:
        self._sources = list(sources)
        weights = np.array([source.weight for source in sources])
        self._shares = weights / weights.sum()
        self._tokenizer = tokenizer
        self._absent = absent
        self._longest = longest
        self._asks = asks
        self._count = lru_cache(maxsize=100_000)(lambda text: len(tokenizer.encode(text)))

    def sample(
        self, rng: np.random.Generator, *, size: int, queries: int, split: Split = "train"
    ) -> Example:
        """Draw a window and questions about it (see the class).

        Raises:
            DataError: A file is missing or malformed, or no window is that short.
        """
        for _ in range(TRIES):
            window = self._draw_window(rng, size, split)
            if window is None:
                continue
            questions = list(islice(self._draw_questions(rng, window, queries, split), queries))
            if questions:
                order = range(queries)
                return Example(window.text, [questions[i % len(questions)] for i in order])
        raise DataError(f"{self.name}: no context of at most {size} tokens was found")

    def parts(self) -> dict[str, TrainingTask]:
        """Return a task of answerable questions for each source, and one of unanswerable ones."""
        make = partial(ProseTask, tokenizer=self._tokenizer, longest=self._longest)
        parts: dict[str, TrainingTask] = {
            weighted.source.name: make([weighted], absent=0, asks="answered")
            for weighted in self._sources
        }
        if self._absent:
            parts["absent"] = make(self._sources, absent=1, asks="absent")
        return parts

    @classmethod
    def card(cls) -> Task:
        """Describe the task; the end of the line ends an answer."""
        return Task(
            name=cls.name,
            purpose="Any text, asked in words.",
            stop_tokens=["\n"],
            query_template="\nQuestion: {query}\nAnswer:",
            absent_answer=f" {ABSENT}\n",
            continuation_prompt=CONTINUATION,
            example_document="Mira Okonjo runs the bakery on Elm Street. It opens at six.",
            example_query="Who runs the bakery on Elm Street?",
            example_answer="Mira Okonjo",
        )

    def _draw_passage(self, rng: np.random.Generator, split: Split) -> Passage:
        chosen = self._sources[rng.choice(len(self._sources), p=self._shares)]
        return chosen.source.draw(rng, split)

    def _draw_window(self, rng: np.random.Generator, size: int, split: Split) -> Window | None:
        """Draw a window around a question; None where what it needs is too long."""
        passage = self._draw_passage(rng, split)
        known = [q for q in passage.questions if q.answers and self._is_short(q)]
        if not known:
            return None
        chosen = known[rng.integers(len(known))]
        first = min(max(chosen.first, passage.lead), len(passage.pieces) - 1)
        window = Window(passage, first, max(first, chosen.last))
        most = self._longest if size == 1 else size
        if self._count(window.text) > most:
            return None
        while size > 1 and (wider := self._widen(rng, window, size)) is not None:
            window = wider
        return window

    def _widen(self, rng: np.random.Generator, window: Window, size: int) -> Window | None:
        """Add a neighbouring piece on either side; None where neither fits."""
        sides = [window.widen(behind=behind) for behind in (False, True)]
        wider = [side for side in sides if side and self._count(side.text) <= size]
        return wider[rng.integers(len(wider))] if wider else None

    def _draw_questions(
        self, rng: np.random.Generator, window: Window, most: int, split: Split
    ) -> Iterator[Question]:
        """Draw answerable questions first, then an unanswerable question, then continuations."""
        if self._asks != "absent":
            known = [q for q in window.passage.questions if window.answers(q) and self._is_short(q)]
            room = most if self._asks == "answered" else max(1, most - 1)
            for place in rng.permutation(len(known))[:room]:
                yield _build_question(known[place])
        if rng.random() < self._absent:
            yield from self._draw_unanswerable(rng, window, split)
        for _ in range(CONTINUATIONS if self._asks == "all" else 0):
            continuation = self._draw_continuation(rng, window.text)
            if continuation is not None:
                yield continuation

    def _draw_unanswerable(
        self, rng: np.random.Generator, window: Window, split: Split
    ) -> Iterator[Question]:
        """Draw a question that the window does not answer, where there is one."""
        asked = window.passage.questions
        near = [q for q in asked if not q.answers]
        elsewhere = [q for q in asked if window.misses(q)]
        if near and rng.random() < NEAR:
            chosen = near
        elif elsewhere and rng.random() < 0.5:
            chosen = elsewhere
        else:
            other = self._draw_passage(rng, split)
            queries = {q.query for q in asked}
            chosen = [q for q in other.questions if q.answers and q.query not in queries]
        chosen = [q for q in chosen or near or elsewhere if self._is_short(q)]
        if chosen:
            yield Question(chosen[rng.integers(len(chosen))].query, f" {ABSENT}\n", ABSENT)

    def _draw_continuation(self, rng: np.random.Generator, text: str) -> Question | None:
        """Ask for the tokens that follow some tokens of the text; None where it has too few."""
        ends = [0, *self._tokenizer.find_token_ends(text)]
        seen = int(rng.integers(SEEN[0], SEEN[1] + 1))
        last = len(ends) - seen - CONTINUED // 2
        if last < 1:
            return None
        starts = [i for i in range(last) if i == 0 or text[ends[i]].isspace()]  # whole words
        start = starts[rng.integers(len(starts))]
        middle = start + seen
        if rng.random() < FROM_THE_START:
            start = middle = 0
        end = ends[min(middle + CONTINUED, len(ends) - 1)]
        following = text[ends[middle] : end]
        if not following:  # within a character of many tokens
            return None
        prompt = CONTINUATION + text[ends[start] : ends[middle]]
        return Question(prompt, following, following, templated=False)

    def _is_short(self, question: PassageQuestion) -> bool:
        longest = question.answers[0] if question.answers else ABSENT
        return self._count(question.query) + self._count(longest) <= LONGEST_ASKED


def _build_question(question: PassageQuestion) -> Question:
    first, *others = question.answers
    return Question(question.query, f" {first}\n", first, tuple(others))
