"""Calibration of confidence: from READ's log-probabilities to the probability of a right answer.

Logistic regression. A checkpoint holds the weights, which were fitted on questions that no reported
figure uses.
"""

import math
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field


@dataclass(frozen=True)
class Evidence:
    """Natural logarithms of probabilities that READ computes for a query on a page."""

    query: float
    """Mean over the query's tokens, the template's included, except the first; 0 where the
    calibration does not weigh it."""
    absent: float
    "First token of the absent answer, at the start of the answer; 0 without an absent answer."
    answer: float = 0.0
    "Mean over the answer's tokens, the stop token included."
    weakest: float = 0.0
    "The least likely token of the answer."


class Logistic(BaseModel):
    """A probability as a logistic function of evidence."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    bias: float
    query: float = 0.0
    absent: float = 0.0
    answer: float = 0.0
    weakest: float = 0.0
    pages: float = 0.0
    "Weight of the logarithm of the number of pages."

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
    """The logistic functions that select pages and give confidence."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    page: Logistic
    "That a page answers the query, from `query` and `absent` alone; it selects the pages to read."
    answer: Logistic
    "That the answer of a page is right."
    absence: Logistic
    "That the text has no answer, where a page gives the absent answer."
    min_confidence: float = Field(ge=0, le=1)
    "Answers below it count as not found, unless the caller sets another minimum."
