"""What WRITE and READ ask of the device: operations a second, time, and memory."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measurement import Work, alternate, peak_bytes
from benchmarks.serving.documents import documents
from benchmarks.serving.inprocess import Batch, batch_of
from benchmarks.serving.plan import Plan
from benchmarks.serving.results import (
    DeviceSection,
    Efficiency,
    Operation,
    Peak,
    ReadTime,
    Unrolled,
)
from benchmarks.speed.unrolled import unrolled_steps
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.model import MemoryModel
from gradmem_core.reading.answers import ReadingRules
from gradmem_core.reading.decoding import Sampling
from gradmem_core.reading.generation import generate
from gradmem_core.writing.descent import write

STEPS = 5
PAIRS = 16
BATCH = 32
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


def device(checkpoint: Checkpoint, plan: Plan) -> DeviceSection:
    """Measure everything that needs no service.

    Raises:
        ArithmeticError: The unrolled WRITE makes other memories.
    """
    checkpoint = _without_limits(checkpoint)
    model = checkpoint.model
    usual = _batch(checkpoint, PAIRS, BATCH, plan)
    long = _batch(checkpoint, LONG_PAIRS, LONG_BATCH, plan)
    return DeviceSection(
        efficiency=_efficiency(model, usual, plan.runs),
        unrolled=(
            _unrolled(model, usual, PAIRS, plan.runs),
            _unrolled(model, long, LONG_PAIRS, plan.runs),
        ),
        peaks=tuple(_peak(checkpoint, batch, steps, plan) for batch, steps in PEAKS),
        read_times=_read_times(checkpoint, plan),
        profile=operations(_writing(model, usual, STEPS)),
    )


def _without_limits(checkpoint: Checkpoint) -> Checkpoint:
    """The same weights for documents and steps beyond training: time, not accuracy, is measured."""
    model = MemoryModel(checkpoint.model.backbone, checkpoint.model.config, seed=0)
    model.load_state_dict(checkpoint.model.state_dict())
    model.config = model.config.model_copy(
        update={"max_context_tokens": sys.maxsize, "max_write_steps": sys.maxsize}
    )
    return replace(checkpoint, model=model.requires_grad_(False).eval())


def _batch(checkpoint: Checkpoint, pairs: int, count: int, plan: Plan) -> Batch:
    return batch_of(checkpoint, documents(count, pairs=pairs, seed=plan.seed))


def _writing(model: MemoryModel, batch: Batch, steps: int) -> Work:
    """WRITE as the service does it."""
    return lambda: write(model, batch.ids, batch.lengths, steps, create_graph=False)


def _peak(checkpoint: Checkpoint, batch: int, steps: int, plan: Plan) -> Peak:
    writing = _writing(checkpoint.model, _batch(checkpoint, PAIRS, batch, plan), steps)
    return Peak(batch=batch, pairs=PAIRS, steps=steps, bytes=peak_bytes(writing))


def _efficiency(model: MemoryModel, batch: Batch, runs: int) -> tuple[Efficiency, ...]:
    writing = _writing(model, batch, STEPS)
    count, tokens = batch.ids.shape
    products = Products(model, rows=count * (model.config.memory_tokens + tokens))
    with FlopCounterMode(display=False) as counter:
        writing()
    taken = alternate({"write": writing, "gemm": products}, runs)
    return tuple(
        Efficiency(
            batch=count,
            pairs=PAIRS,
            steps=STEPS,
            write_flop=counter.get_total_flops(),
            write=ours,
            gemm_flop=products.flop,
            gemm=plain,
        )
        for ours, plain in zip(taken["write"], taken["gemm"], strict=True)
    )


class Products:
    """The matrix products of one forward pass through the layers, and nothing else.

    Args:
        model: Whose linear maps.
        rows: Vectors that go through them: positions of all documents of a batch.
    """

    def __init__(self, model: MemoryModel, *, rows: int) -> None:
        weights = [
            module.weight.detach()
            for layer in model.backbone.layers
            for module in layer.modules()
            if isinstance(module, nn.Linear)
        ]
        self._operands = [
            (torch.ones(rows, w.shape[1]), w.T, torch.empty(rows, w.shape[0])) for w in weights
        ]
        self.flop = sum(2 * rows * w.numel() for w in weights)

    def __call__(self) -> None:
        """Compute them."""
        for inputs, weight, out in self._operands:
            torch.mm(inputs, weight, out=out)


def _unrolled(model: MemoryModel, batch: Batch, pairs: int, runs: int) -> Unrolled:
    serving = _writing(model, batch, STEPS)
    _check_same(model, batch)

    def unrolled() -> None:
        unrolled_write(model, batch, STEPS)

    taken = alternate({"serving": serving, "unrolled": unrolled}, runs)
    return Unrolled(
        batch=len(batch.ids),
        pairs=pairs,
        steps=STEPS,
        serving=tuple(taken["serving"]),
        unrolled=tuple(taken["unrolled"]),
        serving_bytes=peak_bytes(serving),
        unrolled_bytes=peak_bytes(unrolled),
    )


def _check_same(model: MemoryModel, batch: Batch) -> None:
    """Hold one unrolled step against ours; more would amplify the rounding (docs/LOG.md)."""
    expected = write(model, batch.ids, batch.lengths, 1, create_graph=False).memory
    found = unrolled_write(model, batch, 1).detach()
    error = float((found - expected).norm() / expected.norm())
    if not error < TOLERANCE:
        raise ArithmeticError(f"the unrolled WRITE makes other memories: {error:.1e} apart")


def unrolled_write(model: MemoryModel, batch: Batch, steps: int) -> Tensor:
    """WRITE as one would first write it: every step's graph is kept, attention is unfused.

    Returns:
        The memories `(B, m, d)`, with their graph.
    """
    start = model.initial_memory.expand(len(batch.ids), -1, -1).clone().requires_grad_()
    memory, _ = unrolled_steps(model, start, batch.ids, batch.lengths, steps)
    size = model.config.memory_tokens
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():  # the score, which serving reports
        inputs = torch.cat([model.prefix(memory), model.backbone.embed(batch.ids)], dim=1)
        hidden = model.backbone.hidden(inputs)
        F.cross_entropy(model.write_logits(hidden[:, size - 1 : -1]).mT, batch.ids)
    return memory


def _read_times(checkpoint: Checkpoint, plan: Plan) -> tuple[ReadTime, ...]:
    works = {str(pairs): _reading(checkpoint, pairs, plan) for pairs in (SHORT_PAIRS, LONG_PAIRS)}
    taken = alternate({name: _repeated(work) for name, work in works.items()}, plan.runs)
    return tuple(
        ReadTime(
            short_pairs=SHORT_PAIRS,
            short=short / REPEATS,
            long_pairs=LONG_PAIRS,
            long=long / REPEATS,
        )
        for short, long in zip(taken[str(SHORT_PAIRS)], taken[str(LONG_PAIRS)], strict=True)
    )


def _repeated(work: Work) -> Work:
    def repeated() -> None:
        for _ in range(REPEATS):
            work()

    return repeated


def _reading(checkpoint: Checkpoint, pairs: int, plan: Plan) -> Work:
    """READ of one query as the service does it."""
    (document,) = documents(1, pairs=pairs, seed=plan.seed)
    batch = batch_of(checkpoint, [document])
    memory = write(checkpoint.model, batch.ids, batch.lengths, STEPS, create_graph=False).memory
    query = checkpoint.tokenizer.encode(document.queries[0])
    sampling = Sampling(max_new_tokens=ANSWER_TOKENS)
    # Without stop tokens: a wrong answer would otherwise be of another length.
    return lambda: generate(
        checkpoint.model, memory, [query], [0], [sampling], rules=ReadingRules()
    )


def operations(work: Work) -> tuple[Operation, ...]:
    """Where a work's time goes, by the operations that torch calls by name."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        work()
    found = sorted(profiled.key_averages(), key=lambda one: one.self_cpu_time_total, reverse=True)
    rows = [_operation(one.key, [one]) for one in found[:OPERATIONS]]
    return (*rows, _operation(REST, found[OPERATIONS:])) if found[OPERATIONS:] else tuple(rows)


def _operation(name: str, averages: Sequence[Any]) -> Operation:
    return Operation(
        name=name,
        calls=sum(one.count for one in averages),
        seconds=sum(one.self_cpu_time_total for one in averages) / MICROSECONDS,
    )
