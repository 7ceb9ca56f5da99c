"""`python -m benchmarks.accuracy.calibrate`: fit a checkpoint's calibration.

It is fitted on paragraphs of the half for choices, and on generated documents of the selection
stream. Every question is asked of every page alone, which gives each page's evidence and whether
what it said is right. From these: which pages are read on (`page`), which answer counts and how
likely it is right (`answer`), and how sure a refusal is (`absence`).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.accuracy.asking import ANSWER_TOKENS
from benchmarks.accuracy.bank import MemoryBank
from benchmarks.accuracy.questions import Text, joined, read_paragraphs, split_paragraphs
from gradmem_core.blob import stored
from gradmem_core.checkpoints.calibration import Calibration, Evidence, Logistic
from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from gradmem_core.checkpoints.manifest import find_checkpoint
from gradmem_core.reading.answers import CANDIDATES
from gradmem_core.reading.decoding import Sampling
from gradmem_core.reading.generation import answer_queries
from gradmem_core.texts.documents import answer_text, read_query
from training.evaluation.grading import exact_match
from training.seeds import stream
from training.tasks import Question
from training.tasks.invented import InventedPassages
from training.tasks.structured import StructuredPassages

RIDGE = 1.0
"Weight of the squared weights in the fit: of 0.01 to 10 the best in five-fold cross-validation."
ANSWERED, ABSENT = 5, 2
"Questions of each kind that a generated document is asked at most."
FIELDS = ("query", "absent", "answer", "weakest", "pages")
PAGE_FIELDS = ("query", "absent")
UNFITTED = Logistic(bias=0.0, query=1.0)
"Makes READ collect all evidence."


@dataclass(frozen=True)
class Reply:
    """The reply of one page to one question."""

    evidence: Evidence
    absent: bool
    "It says that the text does not say."
    right: bool
    "Its answer is right."
    holds: bool
    "The page has an answer to the question."


@dataclass(frozen=True)
class Asked:
    """A question with the replies of all pages of a document."""

    answered: bool
    "The document answers it."
    replies: list[Reply]


@dataclass(frozen=True)
class Document:
    """Texts of one memory with the questions that it is asked."""

    texts: Sequence[Text]
    "One after the other, with questions that they answer."
    absent: Sequence[Question]
    "Questions that none of them answers."


def calibrate(
    data: Annotated[Path, typer.Option(help="Folder with SQuAD's valid.jsonl.")],
    checkpoint: Annotated[str, typer.Option(help="Checkpoint; its gradmem.json is changed.")],
    bank: Annotated[Path, typer.Option(help="Folder that keeps memories.")] = Path("bank"),
    count: Annotated[int, typer.Option(help="Paragraphs.")] = 60,
    page_tokens: Annotated[int, typer.Option(help="Tokens of a page.")] = 64,
    steps: Annotated[int, typer.Option(help="Write steps (K).")] = 5,
    long_documents: Annotated[int, typer.Option(help="Documents of ten paragraphs.")] = 3,
    generated: Annotated[int, typer.Option(help="Generated documents.")] = 60,
) -> None:
    """Fit the calibration and store it in the checkpoint."""
    loaded = replace(
        load_checkpoint(checkpoint),
        calibration=Calibration(
            page=UNFITTED, answer=UNFITTED, absence=UNFITTED, min_confidence=0.0
        ),
    )
    kept = MemoryBank(bank, loaded)
    paragraphs = read_paragraphs(data / "valid.jsonl", "choices")[:count]
    documents = joined(paragraphs, 1) + joined(paragraphs, 10)[:long_documents]
    every = [
        Document(document, paragraphs[(number * 7 + 31) % count].questions[: len(document)])
        for number, document in enumerate(documents)
    ]
    asked = [
        one
        for document in [*every, *draw_documents(generated)]
        for one in _ask(loaded, kept, document, page_tokens, steps)
    ]
    fitted = fit(asked)
    path = find_checkpoint(checkpoint) / "gradmem.json"
    manifest = json.loads(path.read_text())
    manifest["calibration"] = fitted.model_dump(mode="json")
    path.write_text(json.dumps(manifest, indent=2) + "\n")
    typer.echo(fitted.model_dump_json(indent=2))


def fit(asked: Sequence[Asked]) -> Calibration:
    """Fit the three regressions and the least confidence.

    Args:
        asked: Questions with the replies of all pages; documents of one page and of many.
    """
    every = [(reply, len(one.replies)) for one in asked for reply in one.replies]
    page = _fit([(r.evidence, n, r.holds) for r, n in every], PAGE_FIELDS)
    said = [(r.evidence, n, r.right) for r, n in every if not r.absent]
    answer = _fit(said, FIELDS[:-1])
    chosen = [(one, _chosen(one, page, answer)) for one in asked]
    # The best of many pages is right less often than a page alone of the same score.
    scores = [
        (answer.score(r.evidence, pages=1), len(one.replies), r.right)
        for one, r in chosen
        if not r.absent
    ]
    answer = _rescaled(answer, scores)
    refused = [(r.evidence, len(one.replies), not one.answered) for one, r in chosen if r.absent]
    absence = _fit(refused, ("query", "absent", "pages"))
    found = [
        (answer.probability(r.evidence, pages=len(one.replies)), r.right, one.answered)
        for one, r in chosen
        if not r.absent
    ]
    return Calibration(
        page=page, answer=answer, absence=absence, min_confidence=_least_confidence(found)
    )


def draw_documents(count: int) -> list[Document]:
    """Draw generated documents, two of three structured, with a few questions each."""
    structured, invented = StructuredPassages(), InventedPassages()
    documents = []
    for number in range(count):
        rng = stream("selection", 0, number)
        passage = (invented if number % 3 == 2 else structured).draw(rng, "selection")
        order = [passage.questions[place] for place in rng.permutation(len(passage.questions))]
        answered = [
            Question(one.query, f" {one.answers[0]}\n", one.answers[0], one.answers[1:])
            for one in order
            if one.answers
        ]
        absent = [Question(one.query, "", "") for one in order if not one.answers]
        text = Text(passage.text, tuple(answered[:ANSWERED]))
        documents.append(Document([text], absent[:ABSENT]))
    return documents


def _ask(
    checkpoint: Checkpoint, bank: MemoryBank, document: Document, page_tokens: int, steps: int
) -> Iterator[Asked]:
    """Ask every page of a document all its questions."""
    pages = split_paragraphs(checkpoint.tokenizer, document.texts, page_tokens)
    memory = stored(bank.memories([page.ids for page, _ in pages], [steps])[steps], "int8")
    owners: list[tuple[Question, Text | None]] = [
        (question, text) for text in document.texts for question in text.questions
    ]
    owners += [(question, None) for question in document.absent]
    queries = [read_query(checkpoint, question.query) for question, _ in owners]
    sampling = [Sampling(ANSWER_TOKENS)] * len(queries)
    by_page = [
        answer_queries(checkpoint, memory[place : place + 1], queries, sampling)
        for place in range(len(memory))
    ]
    for number, (question, owner) in enumerate(owners):
        replies = []
        for answers, (page, paragraph) in zip(by_page, pages, strict=True):
            answer = answers[number]
            text = answer_text(checkpoint, answer)
            assert answer.evidence is not None
            replies.append(
                Reply(
                    answer.evidence,
                    text is None,
                    text is not None and exact_match(text, question, normalised=True),
                    paragraph is owner and _is_in(question, page.text),
                )
            )
        yield Asked(owner is not None, replies)


def _is_in(question: Question, text: str) -> bool:
    return any(answer in text for answer in (question.answer, *question.also_right))


def _chosen(one: Asked, page: Logistic, answer: Logistic) -> Reply:
    """Choose as `Decoding` does, without what several documents add."""
    ranked = sorted(one.replies, key=lambda reply: -page.score(reply.evidence, pages=1))
    read_on = ranked[:CANDIDATES]
    found = [reply for reply in read_on if not reply.absent]
    if found:
        return max(found, key=lambda reply: answer.score(reply.evidence, pages=1))
    return read_on[0]


def _fit(samples: Sequence[tuple[Evidence, int, bool]], fields: Sequence[str]) -> Logistic:
    rows = [[_feature(evidence, pages, name) for name in fields] for evidence, pages, _ in samples]
    weights = _regress(np.array(rows), np.array([right for _, _, right in samples], dtype=float))
    return Logistic(bias=weights[0], **dict(zip(fields, weights[1:], strict=True)))


def _feature(evidence: Evidence, pages: int, name: str) -> float:
    return float(np.log(pages)) if name == "pages" else float(getattr(evidence, name))


def _rescaled(logistic: Logistic, scores: Sequence[tuple[float, int, bool]]) -> Logistic:
    """Stretch and shift log-odds so that they hold for chosen answers (Platt, 1999)."""
    rows = np.array([[score, np.log(pages)] for score, pages, _ in scores])
    bias, scale, pages = _regress(rows, np.array([right for _, _, right in scores], dtype=float))
    fields = {
        name: round(scale * getattr(logistic, name), 4)
        for name in ("query", "absent", "answer", "weakest")
    }
    return Logistic(bias=round(bias + scale * logistic.bias, 4), pages=pages, **fields)


def _regress(rows: NDArray[np.float64], right: NDArray[np.float64]) -> list[float]:
    """Fit a logistic regression by Newton's method: the bias, then a weight for each column."""
    design = np.column_stack([np.ones(len(rows)), rows])
    weights = np.zeros(design.shape[1])
    penalty = RIDGE * np.eye(len(weights))
    penalty[0, 0] = 0
    for _ in range(50):
        probability = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        gradient = design.T @ (probability - right) + penalty @ weights
        curvature = (design.T * (probability * (1 - probability) + 1e-9)) @ design + penalty
        weights -= np.linalg.solve(curvature, gradient)
    return [round(float(weight), 4) for weight in weights]


def _least_confidence(found: Sequence[tuple[float, bool, bool]]) -> float:
    """Choose the bound below which an answer is more often harmful than right.

    A right answer that is held back counts as much against it as a question that the text does not
    answer counts for it.
    """

    def worth(bound: float) -> int:
        kept = sum(right for confidence, right, _ in found if confidence >= bound)
        refused = sum(not answered for confidence, _, answered in found if confidence < bound)
        return kept + refused

    bounds = [round(0.01 * step, 2) for step in range(51)]
    return max(bounds, key=worth)


if __name__ == "__main__":
    typer.run(calibrate)
