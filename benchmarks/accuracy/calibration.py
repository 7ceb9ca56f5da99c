"""`gradmem-bench calibrate`: fit the calibration of a checkpoint for texts.

It is fitted on paragraphs of the half for choices, and on generated documents of the selection
stream. Every question is asked of every page alone, which gives each page's evidence and whether
its answer is right. From these: which pages generate an answer (`page`), which answer counts and
how likely it is right (`answer`), and how sure a refusal is (`absence`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.accuracy.asking import ANSWER_TOKENS
from benchmarks.accuracy.bank import MemoryBank
from benchmarks.accuracy.paragraphs import join_paragraphs, read_paragraphs, split_texts
from benchmarks.accuracy.replies import AskedText
from benchmarks.options import Bank
from gradmem_core.blob import quantize
from gradmem_core.checkpoints.calibration import Calibration, Evidence, Logistic
from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from gradmem_core.checkpoints.manifest import find_checkpoint, read_manifest, write_manifest
from gradmem_core.errors import InputError
from gradmem_core.reading.answers import CANDIDATES, Answer
from gradmem_core.reading.generation import answer_queries
from gradmem_core.reading.sampling import Sampling
from gradmem_core.texts.documents import decode_answer, prepare_query
from gradmem_core.texts.paging import Page
from training.evaluation.grading import exact_match
from training.seeds import stream
from training.tasks import Question
from training.tasks.passages.invented import InventedPassages
from training.tasks.passages.structured import StructuredPassages

RIDGE = 1.0
"Weight of the squared weights in the fit: of 0.01 to 10 the best in five-fold cross-validation."
TOGETHER = 10
"Paragraphs of a long document."
ANSWERED, ABSENT = 5, 2
"Questions of each kind that a generated document is asked at most."
PAGE_FIELDS = ("query", "absent")
ANSWER_FIELDS = ("query", "absent", "answer", "weakest")
ABSENCE_FIELDS = ("query", "absent", "pages")
"Parts of the evidence that each regression weighs."
UNFITTED = Logistic(bias=0.0, query=1.0)
"Makes READ collect all evidence."
BOUNDS = [round(0.01 * step, 2) for step in range(51)]
"Least confidences to choose from."


@dataclass(frozen=True)
class PageReply:
    """The reply of one page to one question."""

    evidence: Evidence
    absent: bool
    "It says that the text does not say."
    right: bool
    "Its answer is right."
    holds: bool
    "The page has an answer to the question."


@dataclass(frozen=True)
class QuestionReplies:
    """The replies of all pages of a document to one question."""

    answered: bool
    "The document answers it."
    replies: list[PageReply]


def calibrate_checkpoint(
    checkpoint: Annotated[
        str, typer.Argument(help="Checkpoint to fit; its gradmem.json is changed.")
    ],
    data: Annotated[Path, typer.Option(help="Folder with SQuAD's valid.jsonl.")],
    bank: Bank = Path("bank"),
    count: Annotated[int, typer.Option(min=1, help="Number of paragraphs.")] = 60,
    page_tokens: Annotated[int, typer.Option(min=1, help="Maximum tokens per page.")] = 64,
    steps: Annotated[int, typer.Option(min=1, help="Write steps (K).")] = 5,
    long_documents: Annotated[
        int, typer.Option(min=0, help=f"Number of documents of {TOGETHER} paragraphs.")
    ] = 3,
    generated: Annotated[int, typer.Option(min=0, help="Number of generated documents.")] = 60,
) -> None:
    """Fit the calibration of a checkpoint's confidence, and store it there."""
    unfitted = Calibration(page=UNFITTED, answer=UNFITTED, absence=UNFITTED, min_confidence=0.0)
    loaded = replace(load_checkpoint(checkpoint), calibration=unfitted)
    memories = MemoryBank(loaded, bank)
    paragraphs = read_paragraphs(data / "valid.jsonl", "choices", count=count)
    documents = [*squad_documents(paragraphs, long_documents), *draw_documents(generated)]
    calibration = fit(
        [
            replies
            for document in documents
            for replies in _ask_pages(loaded, memories, document, page_tokens, steps)
        ]
    )
    folder = find_checkpoint(checkpoint)
    fitted = read_manifest(folder).model_copy(update={"calibration": calibration})
    write_manifest(folder, fitted)
    typer.echo(calibration.model_dump_json(indent=2))


def squad_documents(
    paragraphs: Sequence[AskedText], long_documents: int
) -> Iterator[list[AskedText]]:
    """Yield documents of one paragraph and of many, with questions about another paragraph."""
    documents = join_paragraphs(paragraphs, 1)
    documents += join_paragraphs(paragraphs, TOGETHER)[:long_documents]
    for number, texts in enumerate(documents):
        other = paragraphs[(number * 7 + 31) % len(paragraphs)]
        first, *rest = (replace(text, absent=()) for text in texts)
        yield [replace(first, absent=other.present[: len(texts)]), *rest]


def draw_documents(count: int) -> Iterator[list[AskedText]]:
    """Yield generated documents, two of three structured, with a few questions each."""
    structured, invented = StructuredPassages(), InventedPassages()
    for number in range(count):
        rng = stream("selection", 0, number)
        passage = (invented if number % 3 == 2 else structured).draw(rng, "selection")
        order = [passage.questions[place] for place in rng.permutation(len(passage.questions))]
        present = [
            Question(asked.query, f" {asked.answers[0]}\n", asked.answers[0], asked.answers[1:])
            for asked in order
            if asked.answers
        ]
        absent = [Question(asked.query, "", "") for asked in order if not asked.answers]
        yield [AskedText(passage.text, tuple(present[:ANSWERED]), tuple(absent[:ABSENT]))]


def fit(questions: Sequence[QuestionReplies]) -> Calibration:
    """Fit the three regressions and the least confidence.

    Args:
        questions: Questions to documents of one page and of many.

    Raises:
        InputError: All of them were answered, or none.
    """
    replies = [(reply, len(asked.replies)) for asked in questions for reply in asked.replies]
    page = _fit([(reply.evidence, n, reply.holds) for reply, n in replies], PAGE_FIELDS)
    given = [(reply.evidence, n, reply.right) for reply, n in replies if not reply.absent]
    answer = _fit(given, ANSWER_FIELDS)
    chosen = [(asked, _choose(asked, page, answer)) for asked in questions]
    answers = [(asked, reply) for asked, reply in chosen if not reply.absent]
    answer = _rescale(answer, answers)
    refusals = [
        (reply.evidence, len(asked.replies), not asked.answered)
        for asked, reply in chosen
        if reply.absent
    ]
    return Calibration(
        page=page,
        answer=answer,
        absence=_fit(refusals, ABSENCE_FIELDS),
        min_confidence=_least_confidence(answer, answers),
    )


def _ask_pages(
    checkpoint: Checkpoint,
    bank: MemoryBank,
    document: Sequence[AskedText],
    page_tokens: int,
    steps: int,
) -> Iterator[QuestionReplies]:
    """Ask every page of a document all its questions."""
    pages = split_texts(checkpoint.tokenizer, document, page_tokens)
    memory = quantize(bank.memories([page.ids for page, _ in pages], [steps])[steps], "int8")
    owners: list[tuple[Question, AskedText | None]] = [
        (question, text) for text in document for question in text.present
    ]
    owners += [(question, None) for text in document for question in text.absent]
    queries = [prepare_query(checkpoint, question.query) for question, _ in owners]
    sampling = [Sampling(ANSWER_TOKENS)] * len(queries)
    by_page = [
        answer_queries(checkpoint, memory[place : place + 1], queries, sampling)
        for place in range(len(memory))
    ]
    for (question, owner), *answers in zip(owners, *by_page, strict=True):
        replies = [
            _page_reply(checkpoint, question, answer, page if text is owner else None)
            for answer, (page, text) in zip(answers, pages, strict=True)
        ]
        yield QuestionReplies(owner is not None, replies)


def _page_reply(
    checkpoint: Checkpoint, question: Question, answer: Answer, page: Page | None
) -> PageReply:
    """Grade a page's answer; `page` is None where the question is about another text."""
    text = decode_answer(checkpoint, answer)
    assert answer.evidence is not None
    return PageReply(
        answer.evidence,
        absent=text is None,
        right=text is not None and exact_match(text, question, normalised=True),
        holds=page is not None
        and any(right in page.text for right in (question.answer, *question.also_right)),
    )


def _choose(asked: QuestionReplies, page: Logistic, answer: Logistic) -> PageReply:
    """Choose as `Decoding` does, without what several documents add."""
    ranked = sorted(asked.replies, key=lambda reply: -page.score(reply.evidence, pages=1))
    candidates = ranked[:CANDIDATES]
    answers = [reply for reply in candidates if not reply.absent]
    if answers:
        return max(answers, key=lambda reply: answer.score(reply.evidence, pages=1))
    return candidates[0]


def _fit(samples: Sequence[tuple[Evidence, int, bool]], fields: Sequence[str]) -> Logistic:
    """Fit a regression of what is true on evidence and the number of pages."""
    if not samples:
        raise InputError("the checkpoint answered all questions, or refused every one; use more")
    rows = [
        [np.log(pages) if name == "pages" else getattr(evidence, name) for name in fields]
        for evidence, pages, _ in samples
    ]
    bias, *weights = _regress(rows, [right for _, _, right in samples])
    return Logistic(bias=bias, **dict(zip(fields, weights, strict=True)))


def _rescale(answer: Logistic, chosen: Sequence[tuple[QuestionReplies, PageReply]]) -> Logistic:
    """Stretch and shift log-odds so that they hold for chosen answers (Platt, 1999).

    The best of many pages is right less often than a page alone of the same score.
    """
    rows = [
        [answer.score(reply.evidence, pages=1), np.log(len(asked.replies))]
        for asked, reply in chosen
    ]
    bias, scale, pages = _regress(rows, [reply.right for _, reply in chosen])
    weights = {name: round(scale * getattr(answer, name), 4) for name in ANSWER_FIELDS}
    return Logistic(bias=round(bias + scale * answer.bias, 4), pages=pages, **weights)


def _regress(rows: Sequence[Sequence[float]], right: Sequence[bool]) -> list[float]:
    """Fit a logistic regression by Newton's method: the bias, then a weight for each column."""
    design: NDArray[np.float64] = np.column_stack([np.ones(len(rows)), np.array(rows)])
    weights = np.zeros(design.shape[1])
    penalty = RIDGE * np.eye(len(weights))
    penalty[0, 0] = 0
    for _ in range(50):
        probability = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        gradient = design.T @ (probability - np.array(right, dtype=float)) + penalty @ weights
        curvature = (design.T * (probability * (1 - probability) + 1e-9)) @ design + penalty
        weights -= np.linalg.solve(curvature, gradient)
    return [round(float(weight), 4) for weight in weights]


def _least_confidence(
    answer: Logistic, chosen: Sequence[tuple[QuestionReplies, PageReply]]
) -> float:
    """Choose the bound below which an answer is more often harmful than right.

    A right answer that is held back counts as much against it as a question that the text does not
    answer counts for it.
    """
    confidences = [
        (answer.probability(reply.evidence, pages=len(asked.replies)), reply.right, asked.answered)
        for asked, reply in chosen
    ]

    def worth(bound: float) -> int:
        given = sum(right for confidence, right, _ in confidences if confidence >= bound)
        refused = sum(not answered for confidence, _, answered in confidences if confidence < bound)
        return given + refused

    return max(BOUNDS, key=worth)
