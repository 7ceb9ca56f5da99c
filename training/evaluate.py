"""Exact match of a model on a task, by writing and free greedy generation."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gradmem_core.generate import Sampling, generate
from gradmem_core.model import MemoryModel
from gradmem_core.read import read
from gradmem_core.tokenizer import Tokenizer
from gradmem_core.write import write
from training.batch import collate
from training.seeds import Split, stream
from training.step import token_accuracy
from training.tasks import Example, TrainingTask

CONTEXTS_AT_ONCE = 32


@dataclass(frozen=True)
class Score:
    """What an evaluation found."""

    exact_match: float
    "Share of the queries answered with exactly the right value, generated greedily."
    token_accuracy: float
    "Share of the targets' tokens predicted, teacher-forced."
    seconds: float
    "Wall-clock time."


def evaluate(
    model: MemoryModel,
    tokenizer: Tokenizer,
    task: TrainingTask,
    *,
    size: int,
    contexts: int,
    queries: int,
    write_steps: int,
    seed: int,
    split: Split,
) -> Score:
    """Write contexts that training never saw and ask for their values.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        task: Where contexts and questions come from.
        size: Size of every context.
        contexts: Number of contexts.
        queries: Questions for each.
        write_steps: Gradient steps of WRITE (K).
        seed: Seed of the examples.
        split: `selection` while choosing, `test` for final figures.

    Raises:
        ContextTooLongError: The contexts are beyond the checkpoint's limit.
        WriteStepsError: `write_steps` is out of range.
    """
    started = time.perf_counter()
    examples = [
        task.sample(stream(split, seed, size, index), size=size, queries=queries)
        for index in range(contexts)
    ]
    right, tokens = 0.0, 0.0
    for start in range(0, contexts, CONTEXTS_AT_ONCE):
        part = examples[start : start + CONTEXTS_AT_ONCE]
        matched, accuracy = _score(model, tokenizer, task, part, write_steps)
        right += matched * len(part)
        tokens += accuracy * len(part)
    return Score(right / contexts, tokens / contexts, time.perf_counter() - started)


@torch.no_grad()
def _score(
    model: MemoryModel,
    tokenizer: Tokenizer,
    task: TrainingTask,
    examples: Sequence[Example],
    write_steps: int,
) -> tuple[float, float]:
    """Exact match and token accuracy of one batch."""
    batch = collate(examples, tokenizer)
    written = write(
        model, batch.context_ids, batch.lengths, write_steps, create_graph=False, measure=False
    )
    logits = read(model, written.memory, batch.query_ids)[:, :, :-1]
    questions = [question for example in examples for question in example.questions]
    owners = [index for index, example in enumerate(examples) for _ in example.questions]
    answers = generate(
        model,
        written.memory,
        [tokenizer.encode(question.query) for question in questions],
        owners,
        [Sampling(model.config.max_answer_tokens)] * len(questions),
        stop_ids=tokenizer.ids_of(task.card().stop_tokens),
    )
    said = [tokenizer.decode(answer.tokens) for answer in answers]
    right = [a == q.answer for a, q in zip(said, questions, strict=True)]
    return sum(right) / len(right), token_accuracy(logits, batch.labels)
