"""Exact match of a writer on a task, by writing and free greedy generation."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from gradmem_core.config import BlobDtype
from training.evaluation.grading import exact_match, f1
from training.loop.batch import collate
from training.loop.loss import token_accuracy
from training.seeds import Split
from training.tasks import Example, Question, TextFormat, TrainingTask
from training.writers import Writer, WriterState, WriteSteps

CONTEXTS_AT_ONCE = 32
"Contexts of a batch."


@dataclass(frozen=True)
class Score:
    """The result of an evaluation."""

    contexts: int
    "Contexts written."
    exact_match: float
    "Share of the queries answered rightly, generated greedily."
    f1: float | None
    "Mean F1 of the answers' words, where the task compares normalised answers."
    token_accuracy: float
    "Share of the targets' tokens predicted, teacher-forced."
    steps_taken: float
    "Mean number of write steps over the contexts."
    state_floats: int
    "Numbers stored for one context."
    state_bytes: int
    "Their bytes."


@dataclass(frozen=True)
class _BatchResult:
    contexts: int
    answers: list[tuple[str, Question]]
    token_accuracy: float
    steps: float
    floats: int
    bytes: int


def evaluate(
    writer: Writer,
    form: TextFormat,
    task: TrainingTask,
    *,
    size: int,
    contexts: int,
    queries: int,
    write_steps: WriteSteps,
    seed: int,
    split: Split,
    blob_dtype: BlobDtype | None = None,
) -> Score:
    """Write contexts that training never saw, ask about them, and score the answers.

    Args:
        writer: Writes and reads.
        form: Its tokenizer and task.
        task: Draws contexts and questions.
        size: Size of every context.
        contexts: Number of contexts.
        queries: Questions for each.
        write_steps: Steps of WRITE (K).
        seed: Seed of the examples.
        split: `selection` while choosing, `test` for final figures.
        blob_dtype: Read states that went through a blob of this dtype; None reads them as written.

    Raises:
        ContextTooLongError: The contexts are beyond the checkpoint's limit.
        InputError: `write_steps` is out of the writer's range, or its states have no blob.
    """
    drawn = task.examples(split=split, seed=seed, size=size, count=contexts, queries=queries)
    # Contexts of similar length share a batch, so that little of it is padding.
    examples = sorted(drawn, key=lambda example: len(example.context))
    batches = [
        _evaluate_batch(
            writer, form, examples[start : start + CONTEXTS_AT_ONCE], write_steps, blob_dtype
        )
        for start in range(0, len(examples), CONTEXTS_AT_ONCE)
    ]
    answers = [graded for batch in batches for graded in batch.answers]
    normalised = task.normalised
    return Score(
        contexts=len(examples),
        exact_match=fmean(exact_match(*answer, normalised=normalised) for answer in answers),
        f1=fmean(f1(*answer) for answer in answers) if normalised else None,
        token_accuracy=sum(b.contexts * b.token_accuracy for b in batches) / len(examples),
        steps_taken=sum(b.contexts * b.steps for b in batches) / len(examples),
        state_floats=max(batch.floats for batch in batches),
        state_bytes=max(batch.bytes for batch in batches),
    )


@torch.no_grad()
def _evaluate_batch(
    writer: Writer,
    form: TextFormat,
    examples: Sequence[Example],
    write_steps: WriteSteps,
    blob_dtype: BlobDtype | None,
) -> _BatchResult:
    batch = collate(examples, form, device=writer.device)
    state = writer.write(batch.context_ids, batch.lengths, write_steps, train=False)
    if blob_dtype is not None:
        state = writer.store(state, blob_dtype)
    answers = _generate_answers(writer, form, examples, state)
    logits = writer.read(state, batch.query_ids)[:, :, :-1]
    return _BatchResult(
        contexts=len(examples),
        answers=answers,
        token_accuracy=token_accuracy(logits, batch.labels[:, :, 1:]),
        steps=float(write_steps if state.steps is None else state.steps.float().mean()),
        floats=state.floats,
        bytes=state.bytes,
    )


def _generate_answers(
    writer: Writer,
    form: TextFormat,
    examples: Sequence[Example],
    state: WriterState,
) -> list[tuple[str, Question]]:
    """Answer every question, in the order of the examples."""
    answers = writer.answer(
        state,
        [[form.encode_query(q) for q in example.questions] for example in examples],
        max_tokens=writer.config.max_answer_tokens,
        stop_ids=form.stop_ids,
    )
    return [
        (form.tokenizer.decode(ids), question)
        for example, rows in zip(examples, answers, strict=True)
        for ids, question in zip(rows, example.questions, strict=True)
    ]
