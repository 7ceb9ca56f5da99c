"""Answers: their confidence, the rules that end them, and the choice among the pages' answers."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from gradmem_core.checkpoints.calibration import Calibration, Evidence
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.tokenizer import Tokenizer

CANDIDATES = 4
"Most pages of a memory that generate an answer, where a calibration ranks them."
NEARLY_AS_CONFIDENT = 0.05
"Of documents whose answers differ less than this in confidence, the latest one answers."


@dataclass(frozen=True)
class Answer:
    """A generated answer."""

    tokens: list[int]
    "Token ids, without the stop token."
    probabilities: list[float]
    "Probability of each of them, given those before it."
    confidence: float
    """Probability that the answer is right, in [0, 1]; without a calibration the mean probability
    of its tokens, the stop token included."""
    finish_reason: Literal["stop", "length"]
    "`stop` if a stop token ended the answer, `length` if `max_new_tokens` did."
    absent: bool = False
    "True for the absent answer, which says that the memory has no answer."
    page: int = 0
    "Index of the page that answered, from 0."
    evidence: Evidence | None = None
    "Log-probabilities behind the confidence; None without a calibration."


@dataclass(frozen=True)
class ReadingRules:
    """Properties of a checkpoint, beyond its model, that READ depends on."""

    stop_ids: frozenset[int] = frozenset()
    "Tokens that end an answer."
    says_absent: Callable[[Sequence[int]], bool] = lambda _: False
    "Test of tokens for the absent answer, which says that the memory has no answer."
    absent_start: int | None = None
    "First token of the absent answer; None where the checkpoint has none."
    calibration: Calibration | None = None
    "Calibration of confidence; None for the mean probability of an answer's tokens."
    candidates: int = CANDIDATES
    "Most pages that generate an answer to a query; without a calibration all pages do."

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> "ReadingRules":
        """Return the rules of a checkpoint."""
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
        """True if the calibration uses the probability of a query's tokens."""
        if self.calibration is None:
            return False
        logistics = (self.calibration.page, self.calibration.answer, self.calibration.absence)
        return any(logistic.query != 0 for logistic in logistics)

    def make_answer(
        self,
        tokens: list[int],
        scores: Sequence[float],
        *,
        page: int,
        pages: int,
        evidence: Evidence | None,
    ) -> Answer:
        """Make an answer of generated tokens.

        Args:
            tokens: Token ids, with the stop token that ended the answer, if any.
            scores: Log-probabilities of the tokens.
            page: Index of the page that the tokens were generated from.
            pages: Number of pages that were asked.
            evidence: Log-probabilities from the preselection; None without a calibration.
        """
        stopped = tokens[-1] in self.stop_ids
        content = tokens[:-1] if stopped else tokens
        absent = self.says_absent(content)
        if self.calibration is None or evidence is None:
            confidence = sum(map(math.exp, scores)) / len(scores)
        else:
            mean = sum(scores) / len(scores)
            evidence = replace(evidence, answer=mean, weakest=min(scores))
            logistic = self.calibration.absence if absent else self.calibration.answer
            confidence = logistic.probability(evidence, pages=pages)
        return Answer(
            content,
            [math.exp(score) for score in scores[: len(content)]],
            confidence,
            "stop" if stopped else "length",
            absent,
            page,
            evidence,
        )


def choose_page(answers: Sequence[Answer], documents: Sequence[Hashable]) -> int:
    """Choose the page whose answer to a query counts.

    Of each document the most confident page with an answer is considered, since only one page of a
    document should have the answer. Several documents of a memory may have it: the latest of those
    that are nearly as confident as the best answers. If no page has an answer, the page that is
    least sure of that is chosen.

    Args:
        answers: Answer of each page, in the order in which the pages were written.
        documents: Identifier of each page's document.

    Returns:
        An index into `answers`.
    """
    present = [page for page, answer in enumerate(answers) if not answer.absent]
    if not present:
        return min(range(len(answers)), key=lambda page: answers[page].confidence)
    present.sort(key=lambda page: answers[page].confidence)
    best = {documents[page]: page for page in present}  # the most confident of each document
    enough = answers[present[-1]].confidence - NEARLY_AS_CONFIDENT
    return max(page for page in best.values() if answers[page].confidence >= enough)


def _has_token(token: int, tokens: Sequence[int]) -> bool:
    return token in tokens


def _is_text(tokenizer: Tokenizer, text: str, tokens: Sequence[int]) -> bool:
    return tokenizer.decode(tokens).strip() == text
