"""Questions about texts, and the figures of their answers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean

from training.tasks import Question

BINS = 10
"Bins of the expected calibration error."


@dataclass(frozen=True)
class AskedText:
    """A text with the questions that are asked about it."""

    text: str
    present: tuple[Question, ...]
    "Questions that it answers."
    absent: tuple[Question, ...] = ()
    "Questions that it does not answer."


@dataclass(frozen=True)
class GradedAnswer:
    """An answer and its grades, which are the same whether it is held back or not."""

    question: Question
    text: str | None
    "None for `not stated`."
    held_back: bool
    "Its confidence is below the least at which the service gives an answer."
    exact: bool
    f1: float
    confidence: float
    "Probability that the answer is right, or that there is none."
    forced: bool | None = None
    "The first reference is predicted, teacher-forced; None where that was not tried."

    @property
    def rejected(self) -> bool:
        """True where the question gets no answer: `not stated`, or held back."""
        return self.text is None or self.held_back


@dataclass(frozen=True)
class Replies:
    """The answers about some texts, and their figures. Shares are from 0 to 1.

    An answer that is held back counts as a rejection.
    """

    present: Sequence[GradedAnswer]
    "To questions that the texts answer."
    absent: Sequence[GradedAnswer] = ()
    "To questions that they do not answer."
    texts: int = 1
    pages: int = 1

    @classmethod
    def merge(cls, replies: Iterable["Replies"]) -> "Replies":
        """Put the answers about several texts together."""
        parts = list(replies)
        return cls(
            list(chain.from_iterable(part.present for part in parts)),
            list(chain.from_iterable(part.absent for part in parts)),
            sum(part.texts for part in parts),
            sum(part.pages for part in parts),
        )

    @property
    def exact_match(self) -> float:
        """Share of the questions that the texts answer that get a right answer."""
        return fmean(answer.exact and not answer.rejected for answer in self.present)

    @property
    def f1(self) -> float:
        """Their mean F1 of the words."""
        return fmean(0.0 if answer.rejected else answer.f1 for answer in self.present)

    @property
    def forced(self) -> float | None:
        """Share of their references predicted, teacher-forced; None where that was not tried."""
        tried = [answer.forced for answer in self.present if answer.forced is not None]
        return fmean(tried) if tried else None

    @property
    def false_rejection_rate(self) -> float:
        """Share of the questions that the texts answer that were rejected."""
        return fmean(answer.rejected for answer in self.present)

    @property
    def rejection_recall(self) -> float | None:
        """Share of the other questions that were rejected; None where there is none."""
        return fmean(answer.rejected for answer in self.absent) if self.absent else None

    @property
    def rejection_precision(self) -> float | None:
        """Share of all rejections that were right; None where nothing was rejected."""
        right = sum(answer.rejected for answer in self.absent)
        rejected = right + sum(answer.rejected for answer in self.present)
        return right / rejected if rejected else None

    @property
    def calibration_error(self) -> float:
        """Expected calibration error (see `calibration_error`).

        The confidence of an answer that is held back is still the answer's, as the service reports
        it with `below threshold`, and is held against whether the answer is right.
        """
        outcomes = [(answer.confidence, answer.exact) for answer in self.present]
        outcomes += [(answer.confidence, answer.text is None) for answer in self.absent]
        return calibration_error(outcomes)


def calibration_error(outcomes: Iterable[tuple[float, bool]]) -> float:
    """Return the expected calibration error (Guo et al., 2017, arXiv 1706.04599, section 2).

    Args:
        outcomes: Confidences, each with whether what it is the confidence of was right.
    """
    bins: list[list[float]] = [[] for _ in range(BINS)]
    for confidence, right in outcomes:
        bins[min(int(confidence * BINS), BINS - 1)].append(confidence - right)
    return sum(abs(sum(errors)) for errors in bins) / sum(map(len, bins))
