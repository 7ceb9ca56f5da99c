"""Answers: what ends one, how sure it is, and which page's counts."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from gradmem_core.checkpoints.calibration import Calibration, Evidence
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.tokenizer import Tokenizer

CANDIDATES = 4
"Pages of a memory that generate an answer, where a calibration tells which are worth it."
NEARLY_AS_CONFIDENT = 0.05
"Of documents whose answers differ in confidence by less than this, the later one answers."


@dataclass(frozen=True)
class Answer:
    """A generated answer."""

    tokens: list[int]
    "Token ids, without the stop token."
    confidence: float
    """Probability that it is right, in [0, 1]; without a calibration the mean probability of its
    tokens, the stop token among them."""
    finish_reason: Literal["stop", "length"]
    "Whether a stop token ended the answer or `max_new_tokens` did."
    absent: bool = False
    "Whether it says that the memory has no answer."
    page: int = 0
    "Which of the memory's pages answered, from 0."
    evidence: Evidence | None = None
    "What its confidence was made of; None without a calibration."


@dataclass(frozen=True)
class ReadingRules:
    """What READ has to know of a checkpoint beyond its model."""

    stop_ids: frozenset[int] = frozenset()
    "Tokens that end an answer."
    says_absent: Callable[[Sequence[int]], bool] = lambda _: False
    "Whether an answer of these tokens says that the memory has none."
    absent_start: int | None = None
    "First token of such an answer; None where the checkpoint cannot give one."
    calibration: Calibration | None = None
    "What confidence is made of; None for the mean probability of an answer's tokens."
    candidates: int = CANDIDATES
    "Most pages that generate an answer to a query; all of them without a calibration."

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> "ReadingRules":
        """The rules of a checkpoint."""
        stop_ids, calibration = frozenset(checkpoint.stop_ids), checkpoint.calibration
        token, text = checkpoint.absent_id, checkpoint.task.absent_answer
        if token is not None:
            return cls(stop_ids, partial(_has_token, token), token, calibration)
        if text is not None:
            start = checkpoint.tokenizer.encode(text)[0]
            says_absent = partial(_is_text, checkpoint.tokenizer, text.strip())
            return cls(stop_ids, says_absent, start, calibration)
        return cls(stop_ids, calibration=calibration)

    @property
    def weighs_queries(self) -> bool:
        """Whether the probability of a query's tokens counts for anything."""
        found = self.calibration
        return found is not None and any(
            one.query != 0 for one in (found.page, found.answer, found.absence)
        )

    def answer(
        self,
        tokens: list[int],
        scores: Sequence[float],
        *,
        page: int,
        pages: int,
        evidence: Evidence | None,
    ) -> Answer:
        """Make an answer of the tokens that were chosen.

        Args:
            tokens: Their ids, a stop token at the end where one ended them.
            scores: Their log-probabilities.
            page: Which page they are of.
            pages: How many were asked.
            evidence: What the first pass found; None without a calibration.
        """
        stopped = tokens[-1] in self.stop_ids
        said = tokens[:-1] if stopped else tokens
        absent = self.says_absent(said)
        if self.calibration is None or evidence is None:
            confidence = sum(map(math.exp, scores)) / len(scores)
        else:
            mean = sum(scores) / len(scores)
            evidence = replace(evidence, answer=mean, weakest=min(scores))
            logistic = self.calibration.absence if absent else self.calibration.answer
            confidence = logistic.probability(evidence, pages=pages)
        return Answer(said, confidence, "stop" if stopped else "length", absent, page, evidence)


def choose_page(answers: Sequence[Answer], documents: Sequence[Hashable]) -> int:
    """Which page's answer to a query counts.

    Of the pages that have an answer the most confident one. What is asked for is in one page of a
    document at most, but may be in several documents that were written into a memory one after the
    other: of those that are nearly as confident the later one answers. Where no page has an answer,
    it is the page that is least sure of that.

    Args:
        answers: The answer of each page, in the order in which they were written.
        documents: For each page what tells its document from others.

    Returns:
        A place in `answers`.
    """
    found = [page for page, one in enumerate(answers) if not one.absent]
    if not found:
        return min(range(len(answers)), key=lambda page: answers[page].confidence)
    found.sort(key=lambda page: answers[page].confidence)
    best = {documents[page]: page for page in found}  # of each document the most confident
    most = answers[found[-1]].confidence
    return max(
        page for page in best.values() if answers[page].confidence >= most - NEARLY_AS_CONFIDENT
    )


def _has_token(token: int, tokens: Sequence[int]) -> bool:
    return token in tokens


def _is_text(tokenizer: Tokenizer, text: str, tokens: Sequence[int]) -> bool:
    return tokenizer.decode(tokens).strip() == text
