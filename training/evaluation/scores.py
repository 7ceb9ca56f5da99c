"""Exact match of a writer on a task, by writing and free greedy generation."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from gradmem_core.config import BlobDtype
from training.evaluation.grading import exact_match, f1
from training.loop.batch import Batch, collate
from training.loop.loss import token_accuracy
from training.seeds import Split
from training.tasks import Example, Question, TextFormat, TrainingTask
from training.writers import Writer, WriterState, WriteSteps

CONTEXTS_AT_ONCE = 32


@dataclass(frozen=True)
class Score:
    """What an evaluation found."""

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
    "Numbers kept for one context."
    state_bytes: int
    "Their bytes."
    seconds: float
    "Wall-clock time."


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
    """Write contexts that training never saw and ask for their values.

    Args:
        writer: What writes and reads.
        form: Its tokenizer, with what it was trained to take.
        task: Where contexts and questions come from.
        size: Size of every context.
        contexts: Number of contexts.
        queries: Questions for each.
        write_steps: Steps of WRITE (K).
        seed: Seed of the examples.
        split: `selection` while choosing, `test` for final figures.
        blob_dtype: Read states that went through a blob of this kind; None reads them as written.

    Raises:
        ContextTooLongError: The contexts are beyond the checkpoint's limit.
        InputError: `write_steps` is out of the writer's range, or its states have no blob.
    """
    started = time.perf_counter()
    drawn = task.examples(split=split, seed=seed, size=size, count=contexts, queries=queries)
    # Those of similar length go together, so that little is padding.
    examples = sorted(drawn, key=lambda one: len(one.context))
    answers: list[tuple[str, Question]] = []
    tokens, steps, floats, size_in_bytes = 0.0, 0.0, 0, 0
    for start in range(0, len(examples), CONTEXTS_AT_ONCE):
        part = examples[start : start + CONTEXTS_AT_ONCE]
        batch = collate(part, form, device=writer.device)
        with torch.no_grad():
            state = writer.write(batch.context_ids, batch.lengths, write_steps, train=False)
            if blob_dtype is not None:
                state = writer.stored(state, blob_dtype)
            answers += _answered(writer, form, part, state)
            tokens += len(part) * _token_accuracy(writer, batch, state)
        taken = write_steps if state.steps is None else float(state.steps.float().mean())
        steps += len(part) * float(taken)
        floats, size_in_bytes = max(floats, state.floats), max(size_in_bytes, state.bytes)
    normalised = task.normalised
    return Score(
        contexts=len(examples),
        exact_match=fmean(exact_match(*one, normalised=normalised) for one in answers),
        f1=fmean(f1(*one) for one in answers) if normalised else None,
        token_accuracy=tokens / len(examples),
        steps_taken=steps / len(examples),
        state_floats=floats,
        state_bytes=size_in_bytes,
        seconds=time.perf_counter() - started,
    )


def _token_accuracy(writer: Writer, batch: Batch, state: WriterState) -> float:
    logits = writer.read(state, batch.query_ids)[:, :, :-1]
    return token_accuracy(logits, batch.labels[:, :, 1:])


def _answered(
    writer: Writer,
    form: TextFormat,
    examples: Sequence[Example],
    state: WriterState,
) -> list[tuple[str, Question]]:
    """What was said to every question."""
    answers = writer.answer(
        state,
        [[form.encode_query(q) for q in example.questions] for example in examples],
        max_tokens=writer.config.max_answer_tokens,
        stop_ids=form.stop_ids,
    )
    return [
        (form.tokenizer.decode(ids), question)
        for example, given in zip(examples, answers, strict=True)
        for ids, question in zip(given, example.questions, strict=True)
    ]
