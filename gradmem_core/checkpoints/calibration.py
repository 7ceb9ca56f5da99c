"""Confidence: from what READ shows to the probability that an answer is right.

Logistic regression on log-probabilities. A checkpoint carries the weights, which were fitted on
questions that are in no figure reported for it.
"""

import math
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field


@dataclass(frozen=True)
class Evidence:
    """What READ shows of one query on one page, as natural logarithms of probabilities."""

    query: float
    """Of the query's tokens but the first, its template's among them, given the page: the mean over
    them; 0 where no calibration weighs it."""
    absent: float
    "Of the first token of the answer that says that the text does not say, where an answer begins."
    answer: float = 0.0
    "Of the answer's tokens, its end among them, the mean over them."
    weakest: float = 0.0
    "Of the least likely of those."


class Logistic(BaseModel):
    """A probability as a logistic function of evidence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bias: float
    query: float = 0.0
    absent: float = 0.0
    answer: float = 0.0
    weakest: float = 0.0
    pages: float = 0.0
    "Weight of the logarithm of the number of pages that were asked."

    def score(self, evidence: Evidence, *, pages: int) -> float:
        """Return the log-odds."""
        return (
            self.bias
            + self.query * evidence.query
            + self.absent * evidence.absent
            + self.answer * evidence.answer
            + self.weakest * evidence.weakest
            + self.pages * math.log(pages)
        )

    def probability(self, evidence: Evidence, *, pages: int) -> float:
        """Return the probability, in [0, 1]."""
        score = self.score(evidence, pages=pages)
        # Written so that neither branch overflows.
        return 1 / (1 + math.exp(-score)) if score >= 0 else 1 - 1 / (1 + math.exp(score))


class Calibration(BaseModel):
    """How a checkpoint finds the answering page, and what its confidence means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    page: Logistic
    "That a page answers the query, from `query` and `absent` alone: which pages are read on."
    answer: Logistic
    "That a page's answer is right."
    absence: Logistic
    "That the text does not say, where a page says so."
    min_confidence: float = Field(ge=0, le=1)
    "Answers below it count as not found where the caller names no other bound."
