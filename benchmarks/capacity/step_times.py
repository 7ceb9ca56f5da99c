"""`gradmem-bench step-times`: gradient steps and answers on the service's device, by batch.

The device is the engine's own (`service.engine.TorchDevice`), without the engine. The operations
are those of `service.capacity.arithmetic`.

One thread computes: its processor time does not depend on what else the machine does, so that a
constant can be measured where nothing else is quiet.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.command import Measurement
from benchmarks.options import CheckpointName, Seed, positive, separated
from benchmarks.results import subject_of
from benchmarks.rows import StepTime
from benchmarks.timing import Work, alternate
from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from gradmem_core.reading.sampling import Sampling
from service.capacity.arithmetic import ModelShape
from service.engine import ReadWork, TorchDevice, WriteWork, list_reads
from service.engine.device import OngoingRead, OngoingWrite
from training.writers.files import load_training

QUERY_TOKENS = 12
ANSWER_TOKENS = 8
"Most tokens of an answer; some checkpoints end theirs earlier."
FIRST_ID = 3
"Smallest token id that is drawn: those before it may be special."
Batches = Annotated[
    Sequence[int], separated(parse=positive, help="Documents or queries of a batch.")
]


def measure_step_times(
    checkpoint: CheckpointName = "prose",
    device: Annotated[str, typer.Option(help="Device, as torch names it.")] = "cpu",
    tokens: Annotated[Sequence[int], separated(parse=positive, help="Tokens of a page.")] = (
        32,
        64,
    ),
    batches: Batches = (1, 4, 16),
    rounds: Annotated[int, typer.Option(min=1, help="Number of timed rounds.")] = 3,
    seed: Seed = 1,
) -> Measurement:
    """Time gradient steps and answers by batch, as constants of the capacity plan."""
    torch.set_num_threads(1)
    loaded = load_checkpoint(checkpoint, device=device)
    shape = ModelShape.load(checkpoint)
    rows = time_steps(loaded, shape, tokens=tokens, batches=batches, rounds=rounds, seed=seed)
    place = loaded.model.initial_memory.device
    return Measurement("serving", rows, subject_of(loaded, load_training(checkpoint)), place)


def time_steps(
    checkpoint: Checkpoint,
    shape: ModelShape,
    *,
    tokens: Sequence[int],
    batches: Sequence[int],
    rounds: int,
    seed: int,
) -> Iterator[StepTime]:
    """Time every combination of tokens and batch, in turn.

    Args:
        checkpoint: Writes and answers.
        shape: Its sizes.
        tokens: Tokens of pages.
        batches: Documents or queries at once.
        rounds: Rounds of which the median counts.
        seed: Seed of the token ids.
    """
    draws = np.random.default_rng(seed)
    device = TorchDevice(prefix_bytes=0)
    writes = {
        (count, batch): partial(_step, device, _writes(checkpoint, draws, count, batch))
        for count in tokens
        for batch in batches
    }
    reads = {batch: _reads(checkpoint, draws, batch) for batch in batches}
    passes = {batch: _answer(device, works) for batch, works in reads.items()}
    works: dict[str, Work] = {
        f"write {count} {batch}": work for (count, batch), work in writes.items()
    }
    works |= {f"read {batch}": partial(_answer, device, work) for batch, work in reads.items()}
    times = _time(works, rounds)
    for count, batch in writes:
        seconds, processor = times[f"write {count} {batch}"]
        yield StepTime(
            operation="write",
            tokens=count,
            batch=batch,
            passes=1,
            flop=batch * shape.gradient_step_flop(count),
            seconds=seconds,
            processor_seconds=processor,
        )
    for batch in reads:
        answer_tokens = passes[batch] - 1
        of_query = shape.read_flop(1, query_tokens=QUERY_TOKENS, answer_tokens=answer_tokens)
        seconds, processor = times[f"read {batch}"]
        yield StepTime(
            operation="read",
            tokens=answer_tokens,
            batch=batch,
            passes=passes[batch],
            flop=batch * (shape.prefill_flop() + of_query),
            seconds=seconds,
            processor_seconds=processor,
        )


def _time(works: Mapping[str, Work], rounds: int) -> dict[str, tuple[float, float]]:
    """Time works in turn; return the medians of wall-clock and of processor time of each."""
    processor: dict[str, list[float]] = defaultdict(list)

    def watched(name: str) -> Work:
        def run() -> None:
            before = time.process_time()
            works[name]()
            processor[name].append(time.process_time() - before)

        return run

    seconds = alternate({name: watched(name) for name in works}, rounds)
    return {
        name: (statistics.median(taken), statistics.median(processor[name][1:]))  # not the first
        for name, taken in seconds.items()
    }


def _writes(
    checkpoint: Checkpoint, draws: np.random.Generator, tokens: int, batch: int
) -> list[WriteWork]:
    steps = checkpoint.model.config.max_write_steps
    return [WriteWork(checkpoint, _ids(checkpoint, draws, tokens), steps) for _ in range(batch)]


def _step(device: TorchDevice, works: Sequence[WriteWork]) -> None:
    """Make the first gradient step of pages; another is never of another length."""
    device.write_step([OngoingWrite(work) for work in works])


def _reads(checkpoint: Checkpoint, draws: np.random.Generator, batch: int) -> list[ReadWork]:
    memory = checkpoint.model.initial_memory.detach()[None]  # (1, m, d)
    sampling = [Sampling(min(ANSWER_TOKENS, checkpoint.model.config.max_answer_tokens))]
    query = _ids(checkpoint, draws, QUERY_TOKENS)  # the same for all, which end together
    (work,) = list_reads(checkpoint, memory, [query], sampling)
    return [replace(work) for _ in range(batch)]


def _answer(device: TorchDevice, works: Sequence[ReadWork]) -> int:
    """Answer queries; return the passes of the device."""
    reads = [OngoingRead(work) for work in works]
    device.begin(reads)
    passes = 1
    while not all(read.done for read in reads):
        device.read_step([read for read in reads if not read.done])
        passes += 1
    return passes


def _ids(checkpoint: Checkpoint, draws: np.random.Generator, count: int) -> list[int]:
    size = checkpoint.model.backbone.vocabulary_size
    return [int(token) for token in draws.integers(FIRST_ID, size, count)]
