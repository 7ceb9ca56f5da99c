"""Ask texts, or what stands for them, and grade the answers.

Every answer comes from `gradmem_core`'s own READ, as the service has it. Shapes: `p` pages,
`m` memory vectors, `S` vectors of a prefix, `T` tokens, `d` width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from benchmarks.text_results import Cell
from gradmem_core.backbone import Backbone
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.reading.answers import Answer, ReadingRules
from gradmem_core.reading.cache import prefill_inputs
from gradmem_core.reading.decoding import Decoding, Sampling
from gradmem_core.reading.generation import answer_queries, finish_answers
from gradmem_core.reading.scoring import read
from gradmem_core.texts.documents import decode_answer, prepare_query
from training.evaluation.grading import exact_match, f1
from training.tasks import Question

ANSWER_TOKENS = 24
"Most tokens of an answer."
BINS = 10
"Bins of the expected calibration error."


@dataclass(frozen=True)
class Graded:
    """An answer with what it is worth."""

    absent: bool
    "It says that the text does not say."
    held_back: bool
    "It is an answer of less than the least confidence, which the service does not give."
    exact: bool
    "It is one of the right answers, held back or not."
    f1: float
    "F1 of its words, held back or not."
    confidence: float
    "Probability that the answer is right, held back or not, or that there is none."
    forced: bool | None = None
    "The first reference is predicted, teacher-forced."

    @property
    def found(self) -> bool:
        """An answer is given at all."""
        return not self.absent and not self.held_back


@dataclass
class Plain:
    """A reader of vectors as they are: what `read` takes in place of a memory model."""

    backbone: Backbone

    def prefix(self, memory: Tensor) -> Tensor:
        """Return `(B, S, d)` unchanged."""
        return memory


def ask_memory(
    checkpoint: Checkpoint,
    memory: Tensor,
    questions: Sequence[Question],
    *,
    min_confidence: float = 0.0,
    forced: bool = False,
) -> list[Graded]:
    """Ask a memory of pages `(p, m, d)`; `forced` is for memories of one page."""
    queries = [prepare_query(checkpoint, question.query) for question in questions]
    answers = answer_queries(checkpoint, memory, queries, _sampling(queries))
    marks = [
        _is_forced(checkpoint, checkpoint.model.prefix(memory), query, question)
        if forced and question.answer
        else None
        for query, question in zip(queries, questions, strict=True)
    ]
    return [
        _graded(checkpoint, answer, question, mark, min_confidence)
        for answer, question, mark in zip(answers, questions, marks, strict=True)
    ]


@torch.no_grad()
def ask_vectors(
    checkpoint: Checkpoint, vectors: Tensor, questions: Sequence[Question]
) -> list[Graded]:
    """Ask the backbone with vectors `(S, d)` in place of a memory, teacher-forced too."""
    queries = [prepare_query(checkpoint, question.query) for question in questions]
    decoding = Decoding(checkpoint.model, ReadingRules.from_checkpoint(checkpoint))
    (prefix,) = prefill_inputs(checkpoint.model.backbone, vectors[None])
    numbers = decoding.join([[prefix]] * len(queries), queries, _sampling(queries))
    return [
        _graded(
            checkpoint,
            answer,
            question,
            _is_forced(checkpoint, vectors[None], query, question),
            0.0,
        )
        for answer, query, question in zip(
            finish_answers(decoding, numbers), queries, questions, strict=True
        )
    ]


def cell(
    condition: str,
    present: Sequence[Graded],
    absent: Sequence[Graded] = (),
    *,
    texts: int,
    **fields: object,
) -> Cell:
    """Sum up what was found under one condition.

    An answer that is held back counts as a refusal. Its confidence is still that of the answer, as
    the service reports it with `below threshold`, and is held against whether the answer is right.

    Args:
        condition: Its name.
        present: Answers to questions that the texts answer.
        absent: Answers to others: right where they say that there is none.
        texts: How many there were.
        fields: Further fields of the cell.
    """
    marks = [one.forced for one in present if one.forced is not None]
    return Cell.model_validate(
        {
            "condition": condition,
            "texts": texts,
            "questions": len(present),
            "exact_match": fmean(one.found and one.exact for one in present),
            "f1": fmean(one.found * one.f1 for one in present),
            "forced": fmean(marks) if marks else None,
            "refused": fmean(not one.found for one in present),
            "absent": len(absent),
            "absent_refused": fmean(not one.found for one in absent) if absent else None,
            "calibration_error": calibration_error(
                [(one.confidence, one.exact) for one in present]
                + [(one.confidence, one.absent) for one in absent]
            ),
            **fields,
        }
    )


def calibration_error(outcomes: Sequence[tuple[float, bool]]) -> float:
    """Return the expected calibration error (Guo et al., 2017, arXiv 1706.04599, section 2).

    Args:
        outcomes: Confidences, and whether what each is the confidence of was right.
    """
    bins: dict[int, list[tuple[float, bool]]] = {}
    for confidence, right in outcomes:
        bins.setdefault(min(int(confidence * BINS), BINS - 1), []).append((confidence, right))
    return sum(
        abs(sum(confidence - right for confidence, right in found)) for found in bins.values()
    ) / len(outcomes)


def _sampling(queries: Sequence[object]) -> list[Sampling]:
    return [Sampling(ANSWER_TOKENS)] * len(queries)


def _graded(
    checkpoint: Checkpoint,
    answer: Answer,
    question: Question,
    forced: bool | None,
    min_confidence: float,
) -> Graded:
    said = decode_answer(checkpoint, answer)
    if said is None:
        return Graded(True, False, False, 0.0, answer.confidence, forced)
    return Graded(
        False,
        answer.confidence < min_confidence,
        exact_match(said, question, normalised=True),
        f1(said, question),
        answer.confidence,
        forced,
    )


@torch.no_grad()
def _is_forced(
    checkpoint: Checkpoint, prefix: Tensor, query: list[int], question: Question
) -> bool:
    """Score as the published code does: the first reference, without the end of the line."""
    answer = checkpoint.tokenizer.encode(f" {question.answer}")
    logits = read(Plain(checkpoint.model.backbone), prefix, torch.tensor([[query + answer]]))
    predicted = logits[0, 0, len(query) : -1].argmax(dim=-1).tolist()
    return bool(predicted == answer)
