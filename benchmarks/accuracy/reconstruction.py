"""`gradmem-bench reconstruction`: tokens of texts that greedy decoding recovers from memories."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from benchmarks.accuracy.bank import MemoryBank
from benchmarks.command import Measurement
from benchmarks.greedy import decode_greedily
from benchmarks.options import CheckpointName, Seed, Steps, positive, separated
from benchmarks.results import subject_of
from benchmarks.rows import Reconstruction
from gradmem_core.checkpoints.checkpoint import load_checkpoint
from gradmem_core.errors import DataError
from gradmem_core.limits import check_context
from gradmem_core.model import MemoryModel
from gradmem_core.tokenizer import Tokenizer
from gradmem_core.writing.descent import score_reconstruction, take_gradient_step
from training.seeds import stream
from training.tasks.text import TextTask
from training.writers.files import load_training

ADAM_RATE = 0.02
Lengths = Annotated[
    Sequence[int], separated(parse=positive, help="Lengths of the texts, in tokens.")
]


def measure_reconstruction(
    checkpoint: CheckpointName,
    data: Annotated[Path, typer.Option(help="Folder with test.txt.")],
    tokens: Lengths = (16, 32, 64),
    steps: Steps = (1, 2, 5, 10, 20),
    texts: Annotated[int, typer.Option(min=1, help="Number of texts of each length.")] = 8,
    adam: Annotated[
        bool,
        typer.Option(
            "--adam", help=f"Write with Adam at a rate of {ADAM_RATE}, for untrained models."
        ),
    ] = False,
    query: Annotated[
        str | None,
        typer.Option(help="Decode after this query; by default right after the memory."),
    ] = None,
    seed: Seed = 7,
) -> Measurement:
    """Measure the share of a text's tokens that its memory gives back."""
    loaded = load_checkpoint(checkpoint)
    model, tokenizer = loaded.model, loaded.tokenizer
    for length in tokens:
        check_context(model.config, length)
    query_ids: list[int] = []
    if query is not None:
        query_ids = tokenizer.encode_query(query, loaded.task.query_template)
    task = TextTask("text", data)

    def rows() -> Iterator[Reconstruction]:
        for length in tokens:
            ids = _draw_texts(task, tokenizer, tokens=length, count=texts, seed=seed)
            write = partial(_write_by_adam, model) if adam else MemoryBank(loaded).memories
            for k, memory in write(ids.tolist(), steps).items():
                score = score_reconstruction(model, memory, ids, _lengths(ids))
                decoded = _decode(model, memory, query_ids, length)
                yield Reconstruction(
                    optimizer="adam" if adam else "gradient",
                    query=query,
                    memory_tokens=model.config.memory_tokens,
                    tokens=length,
                    texts=len(ids),
                    write_steps=k,
                    recovered=float((decoded == ids).float().mean()),
                    recall=float(score.accuracy.mean()),
                    loss=float(score.loss.mean()),
                )

    return Measurement("texts", rows(), subject_of(loaded, load_training(checkpoint)))


def _draw_texts(
    task: TextTask, tokenizer: Tokenizer, *, tokens: int, count: int, seed: int
) -> Tensor:
    """Draw texts of exactly that many tokens, from different paragraphs, `(N, T)`."""
    rng = stream("test", seed, tokens)
    drawn: list[list[int]] = []
    paragraphs = task.paragraphs("test")
    for index in rng.permutation(len(paragraphs)):
        ids = tokenizer.encode(" ".join(paragraphs[index]))
        if len(ids) >= tokens:
            start = int(rng.integers(len(ids) - tokens + 1))
            drawn.append(ids[start : start + tokens])
        if len(drawn) == count:
            return torch.tensor(drawn)
    raise DataError(f"the test split has {len(drawn)} paragraphs of {tokens} tokens, not {count}")


def _write_by_adam(
    model: MemoryModel, texts: Sequence[list[int]], steps: Sequence[int]
) -> dict[int, Tensor]:
    """Return the memories `(N, m, d)` after each number of steps."""
    ids = torch.tensor(texts)
    memory = model.initial_memory.detach().repeat(len(ids), 1, 1).requires_grad_()
    optimizer = torch.optim.Adam([memory], lr=ADAM_RATE)
    memories: dict[int, Tensor] = {}
    for step in range(1, max(steps) + 1):
        following, _ = take_gradient_step(model, memory, ids, _lengths(ids))
        memory.grad = (memory - following).detach() / model.inner_learning_rate()
        optimizer.step()
        if step in steps:
            memories[step] = memory.detach().clone()
    return memories


@torch.no_grad()
def _decode(model: MemoryModel, memory: Tensor, query: list[int], tokens: int) -> Tensor:
    """Decode greedily after memories and a query, `(N, T)`."""
    backbone = model.backbone
    query_ids = torch.tensor([query] * len(memory), dtype=torch.long)
    inputs = torch.cat([model.prefix(memory), backbone.embed(query_ids)], dim=1)
    return decode_greedily(backbone, inputs, backbone.new_cache(), tokens=tokens)


def _lengths(ids: Tensor) -> Tensor:
    return torch.full((len(ids),), ids.shape[1])
