"""The demands of WRITE and READ on the device: operations a second, time, and memory."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.results import Row
from benchmarks.rows import Efficiency, Operation, PeakMemory, ReadByLength, Unrolled
from benchmarks.serving.documents import draw_documents, tokenize
from benchmarks.speed.unrolled import unrolled_steps
from benchmarks.timing import Work, alternate, peak_bytes
from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from gradmem_core.model import MemoryModel
from gradmem_core.reading.answers import ReadingRules
from gradmem_core.reading.generation import generate
from gradmem_core.reading.sampling import Sampling
from gradmem_core.writing.descent import write

STEPS = 5
PAIRS, BATCH = 16, 32
LONG_PAIRS, LONG_BATCH = 96, 8
SHORT_PAIRS = 4
PEAKS = tuple((batch, steps) for batch in (1, 8, 32) for steps in (1, 5, 10))
"Documents of a batch and gradient steps (K) whose memory is measured."
REPEATS = 20
"READs that are timed as one: each takes milliseconds."
ANSWER_TOKENS = 3
OPERATIONS = 12
"Kinds of operations that the profile tells apart."
REST = "all others"
MICROSECONDS = 1e6
"In a second."
TOLERANCE = 1e-4
"Largest distance between the unrolled memories and ours after a step, relative."

Batch = tuple[Tensor, Tensor]
"Token ids `(B, T)`, padded on the right, and lengths `(B,)`."


def measure_device(name: str, *, runs: int, seed: int) -> list[Row]:
    """Measure the work of the device alone, without a service.

    Args:
        name: Checkpoint, a folder or a bundled name.
        runs: Number of times that each work is timed.
        seed: Seed of the documents.

    Raises:
        ArithmeticError: The unrolled WRITE makes other memories.
    """
    checkpoint = without_limits(load_checkpoint(name))
    model = checkpoint.model

    def batch_of(pairs: int, count: int) -> Batch:
        return tokenize(checkpoint, draw_documents(count, pairs=pairs, seed=seed))

    usual = batch_of(PAIRS, BATCH)
    return [
        *_measure_efficiency(model, usual, runs),
        *_measure_unrolled(model, usual, PAIRS, runs),
        *_measure_unrolled(model, batch_of(LONG_PAIRS, LONG_BATCH), LONG_PAIRS, runs),
        *(_measure_peak(model, batch_of(PAIRS, batch), steps) for batch, steps in PEAKS),
        *_measure_reads(checkpoint, runs, seed),
        *profile_operations(partial(_write, model, usual, STEPS)),
    ]


def without_limits(checkpoint: Checkpoint) -> Checkpoint:
    """Return the same weights for longer documents and more steps; accuracy is not measured."""
    model = MemoryModel(checkpoint.model.backbone, checkpoint.model.config, seed=0)
    model.load_state_dict(checkpoint.model.state_dict())
    model.config = model.config.model_copy(
        update={"max_context_tokens": sys.maxsize, "max_write_steps": sys.maxsize}
    )
    return replace(checkpoint, model=model.requires_grad_(False).eval())


def _write(model: MemoryModel, batch: Batch, steps: int) -> Tensor:
    """Write memories as the service does it, `(B, m, d)`."""
    return write(model, *batch, steps, create_graph=False).memory


def _measure_efficiency(model: MemoryModel, batch: Batch, runs: int) -> list[Efficiency]:
    writing = partial(_write, model, batch, STEPS)
    count, tokens = batch[0].shape
    vectors = count * (model.config.memory_tokens + tokens)
    products, gemm_flop = layer_products(model, vectors=vectors)
    with FlopCounterMode(display=False) as counter:
        writing()
    seconds = alternate({"write": writing, "gemm": products}, runs)
    return [
        Efficiency(
            run=run,
            batch=count,
            pairs=PAIRS,
            steps=STEPS,
            write_flop=counter.get_total_flops(),
            write=ours,
            gemm_flop=gemm_flop,
            gemm=plain,
        )
        for run, (ours, plain) in _numbered(seconds)
    ]


def layer_products(model: MemoryModel, *, vectors: int) -> tuple[Work, int]:
    """Return the matrix products of one forward pass through the layers, and their operations.

    Args:
        model: Has the layers.
        vectors: Vectors that go through them: positions of all documents of a batch.
    """
    weights = [
        module.weight.detach()
        for layer in model.backbone.layers
        for module in layer.modules()
        if isinstance(module, nn.Linear)
    ]
    operands = [
        (torch.ones(vectors, w.shape[1]), w.T, torch.empty(vectors, w.shape[0])) for w in weights
    ]

    def multiply() -> None:
        for inputs, weight, out in operands:
            torch.mm(inputs, weight, out=out)

    return multiply, sum(2 * vectors * w.numel() for w in weights)


def _measure_unrolled(model: MemoryModel, batch: Batch, pairs: int, runs: int) -> list[Unrolled]:
    check_unrolled(model, batch)
    works = {
        "serving": partial(_write, model, batch, STEPS),
        "unrolled": partial(write_unrolled, model, batch, STEPS),
    }
    seconds = alternate(works, runs)
    peaks = {name: peak_bytes(work) for name, work in works.items()}
    return [
        Unrolled(
            run=run,
            batch=len(batch[0]),
            pairs=pairs,
            steps=STEPS,
            serving=serving,
            unrolled=unrolled,
            serving_bytes=peaks["serving"],
            unrolled_bytes=peaks["unrolled"],
        )
        for run, (serving, unrolled) in _numbered(seconds)
    ]


def check_unrolled(model: MemoryModel, batch: Batch) -> None:
    """Hold one unrolled step against ours; more would amplify the rounding (docs/LOG.md).

    Raises:
        ArithmeticError: The memories differ.
    """
    ours, unrolled = _write(model, batch, 1), write_unrolled(model, batch, 1).detach()
    error = float((unrolled - ours).norm() / ours.norm())
    if not error < TOLERANCE:
        raise ArithmeticError(f"the memories of the unrolled WRITE differ by {error:.1e}")


def write_unrolled(model: MemoryModel, batch: Batch, steps: int) -> Tensor:
    """Write as one would first do it: every step's graph is kept, attention is unfused.

    Returns:
        The memories `(B, m, d)`, with their graph.
    """
    ids, lengths = batch
    start = model.initial_memory.expand(len(ids), -1, -1).clone().requires_grad_()
    memory, _ = unrolled_steps(model, start, ids, lengths, steps)
    size = model.config.memory_tokens
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():  # the score, which serving reports
        inputs = torch.cat([model.prefix(memory), model.backbone.embed(ids)], dim=1)
        hidden = model.backbone.hidden(inputs)
        F.cross_entropy(model.write_logits(hidden[:, size - 1 : -1]).mT, ids)
    return memory


def _measure_peak(model: MemoryModel, batch: Batch, steps: int) -> PeakMemory:
    peak = peak_bytes(partial(_write, model, batch, steps))
    return PeakMemory(batch=len(batch[0]), pairs=PAIRS, steps=steps, bytes=peak)


def _measure_reads(checkpoint: Checkpoint, runs: int, seed: int) -> list[ReadByLength]:
    short, long = (_reading(checkpoint, pairs, seed) for pairs in (SHORT_PAIRS, LONG_PAIRS))
    return [
        ReadByLength(
            run=run,
            short_pairs=SHORT_PAIRS,
            short=of_short / REPEATS,
            long_pairs=LONG_PAIRS,
            long=of_long / REPEATS,
        )
        for run, (of_short, of_long) in _numbered(alternate({"short": short, "long": long}, runs))
    ]


def _reading(checkpoint: Checkpoint, pairs: int, seed: int) -> Work:
    """Return `REPEATS` READs of one query, as the service does it."""
    documents = draw_documents(1, pairs=pairs, seed=seed)
    memory = _write(checkpoint.model, tokenize(checkpoint, documents), STEPS)
    query = checkpoint.tokenizer.encode(documents[0].questions[0].query)
    sampling = Sampling(max_new_tokens=ANSWER_TOKENS)
    rules = ReadingRules()  # no stop tokens: a wrong answer would otherwise be of another length

    def read() -> None:
        for _ in range(REPEATS):
            generate(checkpoint.model, memory, [query], [0], [sampling], rules=rules)

    return read


def _numbered(seconds: dict[str, list[float]]) -> enumerate[tuple[float, ...]]:
    """Number the runs from 1, each with the seconds of all works."""
    return enumerate(zip(*seconds.values(), strict=True), start=1)


def profile_operations(work: Work) -> list[Operation]:
    """Return where a work's time goes, by the operations that torch calls by name."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        work()
    averages = sorted(
        profiled.key_averages(), key=lambda entry: entry.self_cpu_time_total, reverse=True
    )
    rows = [_operation(entry.key, [entry]) for entry in averages[:OPERATIONS]]
    rest = averages[OPERATIONS:]
    return [*rows, _operation(REST, rest)] if rest else rows


def _operation(name: str, averages: Sequence[Any]) -> Operation:
    return Operation(
        name=name,
        calls=sum(entry.count for entry in averages),
        seconds=sum(entry.self_cpu_time_total for entry in averages) / MICROSECONDS,
    )
