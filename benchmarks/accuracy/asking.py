"""Ask memories, or what stands in their place, and grade the answers.

Every answer comes from `gradmem_core`'s own READ, as the service has it. Shapes: `p` pages,
`m` memory vectors, `S` vectors of a prefix, `d` width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.accuracy.replies import AskedText, GradedAnswer, Replies
from gradmem_core.backbone import Backbone
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.reading.answers import Answer, ReadingRules
from gradmem_core.reading.cache import prefill_inputs
from gradmem_core.reading.decoding import Decoding
from gradmem_core.reading.generation import answer_queries, finish_answers
from gradmem_core.reading.sampling import Sampling
from gradmem_core.reading.scoring import read
from gradmem_core.texts.documents import decode_answer, prepare_query
from training.evaluation.grading import exact_match, f1
from training.tasks import Question

ANSWER_TOKENS = 24
"Most tokens of an answer to a question in words."


@dataclass
class _VectorReader:
    """Makes `read` take vectors as they are in place of a memory."""

    backbone: Backbone

    def prefix(self, memory: Tensor) -> Tensor:
        """Return `(B, S, d)` unchanged."""
        return memory


def ask_memory(
    checkpoint: Checkpoint,
    memory: Tensor,
    texts: Sequence[AskedText],
    *,
    min_confidence: float = 0.0,
    normalised: bool = True,
    max_tokens: int = ANSWER_TOKENS,
) -> Replies:
    """Ask a memory of some texts all their questions.

    Args:
        checkpoint: What wrote the memory.
        memory: The texts' pages, `(p, m, d)`.
        texts: The texts of one document.
        min_confidence: Hold back answers of less confidence.
        normalised: Grade as SQuAD does; otherwise an answer has to be the reference, letter by
            letter.
        max_tokens: Most tokens of an answer.
    """
    present = [question for text in texts for question in text.present]
    questions = [*present, *(question for text in texts for question in text.absent)]
    queries = [prepare_query(checkpoint, question.query) for question in questions]
    answers = answer_queries(checkpoint, memory, queries, [Sampling(max_tokens)] * len(queries))
    graded = [
        _grade(checkpoint, answer, question, min_confidence, normalised=normalised)
        for answer, question in zip(answers, questions, strict=True)
    ]
    return Replies(graded[: len(present)], graded[len(present) :], pages=len(memory))


@torch.no_grad()
def ask_vectors(checkpoint: Checkpoint, vectors: Tensor, text: AskedText) -> Replies:
    """Ask the backbone what a text answers, with vectors `(S, d)` before the question.

    References are predicted teacher-forced, too.
    """
    queries = [prepare_query(checkpoint, question.query) for question in text.present]
    decoding = Decoding(checkpoint.model, ReadingRules.from_checkpoint(checkpoint))
    pages = prefill_inputs(checkpoint.model.backbone, vectors[None])
    sampling = [Sampling(ANSWER_TOKENS)] * len(queries)
    answers = finish_answers(decoding, decoding.join([pages] * len(queries), queries, sampling))
    return Replies(
        [
            replace(
                _grade(checkpoint, answer, question),
                forced=_predicts(checkpoint, vectors, query, question.answer),
            )
            for answer, query, question in zip(answers, queries, text.present, strict=True)
        ]
    )


def _grade(
    checkpoint: Checkpoint,
    answer: Answer,
    question: Question,
    min_confidence: float = 0.0,
    *,
    normalised: bool = True,
) -> GradedAnswer:
    text = decode_answer(checkpoint, answer)
    if text is None:
        return GradedAnswer(question, None, False, False, 0.0, answer.confidence)
    return GradedAnswer(
        question,
        text,
        held_back=answer.confidence < min_confidence,
        exact=exact_match(text, question, normalised=normalised),
        f1=f1(text, question),
        confidence=answer.confidence,
    )


def _predicts(checkpoint: Checkpoint, vectors: Tensor, query: list[int], answer: str) -> bool:
    """Score as the published code does: the first reference, without the end of the line."""
    reference = checkpoint.tokenizer.encode(f" {answer}")
    ids = torch.tensor([[query + reference]])
    logits = read(_VectorReader(checkpoint.model.backbone), vectors[None], ids)
    predicted = logits[0, 0, len(query) : -1].argmax(dim=-1).tolist()
    return bool(predicted == reference)
