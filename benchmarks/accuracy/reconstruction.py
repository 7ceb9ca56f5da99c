"""How much of a text a memory holds: tokens that greedy decoding recovers, against K."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from benchmarks.measurement import header
from benchmarks.training_results import TextCell, TextResult
from gradmem_core.checkpoints.checkpoint import load_checkpoint
from gradmem_core.errors import DataError
from gradmem_core.limits import check_context
from gradmem_core.model import MemoryModel
from gradmem_core.tokenizer import Tokenizer
from gradmem_core.writing.descent import score_reconstruction, take_gradient_step
from training.seeds import stream
from training.tasks.prose import ProseTask
from training.writers.files import training_of

Inner = Literal["gradient", "adam"]
ADAM_RATE = 0.02


@dataclass(frozen=True)
class TextPlan:
    """What to measure."""

    data: Path
    "Folder with `test.txt`."
    tokens: Sequence[int]
    "Lengths of the texts."
    write_steps: Sequence[int]
    "Numbers of write steps (K)."
    pieces: int
    "Texts of each length."
    inner: Inner
    "`gradient` writes as the checkpoint does; `adam` by Adam at ADAM_RATE, for what is untrained."
    query: str | None = None
    "Decode after this query in its template; right behind the memory without one."


def measure_text(reference: str, plan: TextPlan, *, seed: int, command: str) -> TextResult:
    """Measure a checkpoint of a pretrained model on pieces of the test split.

    Raises:
        CheckpointError: There is no such checkpoint.
        DataError: The test file is missing, or has no paragraph of a length.
        ContextTooLongError: A length is beyond the checkpoint's limit.
    """
    started = time.perf_counter()
    checkpoint = load_checkpoint(reference)
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    for tokens in plan.tokens:
        check_context(model.config, tokens)
    task = ProseTask("text", plan.data)
    query: list[int] = []
    if plan.query is not None:
        query = tokenizer.encode_query(plan.query, checkpoint.task.query_template)
    cells = []
    for tokens in plan.tokens:
        ids = _pieces(task, tokenizer, tokens=tokens, count=plan.pieces, seed=seed)
        for steps, memory in _memories(model, ids, plan):
            loss, recall = score_reconstruction(model, memory, ids, _lengths(ids))
            said = _continued(model, memory, query, tokens)
            cells.append(
                TextCell(
                    tokens=tokens,
                    pieces=len(ids),
                    write_steps=steps,
                    recovered=float((said == ids).float().mean()),
                    recall=float(recall.mean()),
                    loss=float(loss.mean()),
                )
            )
    return TextResult(
        **header(command, seed=seed, started=started).model_dump(),
        checkpoint=checkpoint.name,
        fingerprint=checkpoint.fingerprint,
        training=training_of(reference),
        memory_tokens=model.config.memory_tokens,
        inner=plan.inner,
        query=plan.query,
        cells=tuple(cells),
    )


def _pieces(task: ProseTask, tokenizer: Tokenizer, *, tokens: int, count: int, seed: int) -> Tensor:
    """Texts of exactly that many tokens, from different paragraphs, `(N, T)`."""
    rng = stream("test", seed, tokens)
    found: list[list[int]] = []
    paragraphs = task.paragraphs("test")
    for index in rng.permutation(len(paragraphs)):
        ids = tokenizer.encode(" ".join(paragraphs[index]))
        if len(ids) >= tokens:
            start = int(rng.integers(len(ids) - tokens + 1))
            found.append(ids[start : start + tokens])
        if len(found) == count:
            return torch.tensor(found)
    raise DataError(f"the test split has {len(found)} paragraphs of {tokens} tokens, not {count}")


def _memories(model: MemoryModel, ids: Tensor, plan: TextPlan) -> Iterator[tuple[int, Tensor]]:
    """The memories `(N, m, d)` after each number of steps that is to be measured."""
    memory = model.initial_memory.detach().repeat(len(ids), 1, 1).requires_grad_()
    adam = torch.optim.Adam([memory], lr=ADAM_RATE)
    for step in range(1, max(plan.write_steps) + 1):
        following, _ = take_gradient_step(model, memory, ids, _lengths(ids))
        if plan.inner == "adam":
            memory.grad = (memory - following).detach() / model.inner_learning_rate()
            adam.step()
        else:
            memory = following
        if step in plan.write_steps:
            yield step, memory.detach()


@torch.no_grad()
def _continued(model: MemoryModel, memory: Tensor, query: list[int], tokens: int) -> Tensor:
    """What greedy decoding says after memories and a query, `(N, T)`."""
    backbone = model.backbone
    cache = backbone.new_cache()
    asked = backbone.embed(torch.tensor([query] * len(memory), dtype=torch.long))
    inputs = torch.cat([model.prefix(memory), asked], dim=1)
    said: list[Tensor] = []
    for _ in range(tokens):
        hidden = backbone.hidden(inputs, cache=cache)
        said.append(backbone.logits(hidden[:, -1]).argmax(dim=-1))
        inputs = backbone.embed(said[-1][:, None])
    return torch.stack(said, dim=1)


def _lengths(ids: Tensor) -> Tensor:
    return torch.full((len(ids),), ids.shape[1])
