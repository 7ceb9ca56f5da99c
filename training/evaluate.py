"""Exact match of a writer on a task, by writing and free greedy generation."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gradmem_core.config import BlobDtype
from gradmem_core.tokenizer import Tokenizer
from training.batch import Batch, collate
from training.seeds import Split, stream
from training.step import token_accuracy
from training.tasks import Example, TrainingTask
from training.writers import State, Writer, WriteSteps

CONTEXTS_AT_ONCE = 32


@dataclass(frozen=True)
class Score:
    """What an evaluation found."""

    exact_match: float
    "Share of the queries answered with exactly the right value, generated greedily."
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
    tokenizer: Tokenizer,
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
        tokenizer: Its tokenizer.
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
    examples = [
        task.sample(stream(split, seed, size, index), size=size, queries=queries)
        for index in range(contexts)
    ]
    right, tokens, steps, floats, size_in_bytes = 0.0, 0.0, 0.0, 0, 0
    for start in range(0, contexts, CONTEXTS_AT_ONCE):
        part = examples[start : start + CONTEXTS_AT_ONCE]
        batch = collate(part, tokenizer, device=writer.device)
        with torch.no_grad():
            state = writer.write(batch.context_ids, batch.lengths, write_steps, train=False)
            if blob_dtype is not None:
                state = writer.stored(state, blob_dtype)
            right += _matched(writer, tokenizer, task, part, state)
            tokens += len(part) * _token_accuracy(writer, batch, state)
        taken = write_steps if state.steps is None else float(state.steps.float().mean())
        steps += len(part) * float(taken)
        floats, size_in_bytes = max(floats, state.floats), max(size_in_bytes, state.bytes)
    return Score(
        exact_match=right / contexts,
        token_accuracy=tokens / contexts,
        steps_taken=steps / contexts,
        state_floats=floats,
        state_bytes=size_in_bytes,
        seconds=time.perf_counter() - started,
    )


def _token_accuracy(writer: Writer, batch: Batch, state: State) -> float:
    logits = writer.read(state, batch.query_ids)[:, :, :-1]
    return token_accuracy(logits, batch.labels[:, :, 1:])


def _matched(
    writer: Writer,
    tokenizer: Tokenizer,
    task: TrainingTask,
    examples: Sequence[Example],
    state: State,
) -> float:
    """Sum over contexts of the share of queries that are answered rightly."""
    answers = writer.answer(
        state,
        [[tokenizer.encode(q.query) for q in example.questions] for example in examples],
        max_tokens=writer.config.max_answer_tokens,
        stop_ids=tokenizer.ids_of(task.card().stop_tokens),
    )
    right = 0.0
    for example, given in zip(examples, answers, strict=True):
        said = [tokenizer.decode(ids) for ids in given]
        asked = example.questions
        right += sum(a == q.answer for a, q in zip(said, asked, strict=True)) / len(asked)
    return right
