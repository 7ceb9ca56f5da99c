"""WRITE and READ under load, through HTTP and in-process in turn."""

from collections.abc import Sequence

from benchmarks.serving.apart import Apart
from benchmarks.serving.documents import Document, documents
from benchmarks.serving.inprocess import ready_batches, step_seconds
from benchmarks.serving.load import Request, load
from benchmarks.serving.plan import Plan
from benchmarks.serving.results import Load, Mixed, ReadSection, WriteSection
from benchmarks.serving.targets import Target

PAIRS = 16
STEPS = 5
"Gradient steps (K) of every WRITE that is measured."
WRITERS = (1, 8, 32, 128)
READERS = (1, 8, 32, 64, 128)
BATCH = 32
"Documents of a ready batch."
FEW_READERS = 4
"Readers whose latency is measured beside the writers."
DIFFERENT = 64
"Different documents, taken in turn."
STEP_ROUNDS = 3


async def writes(targets: Sequence[Target], other: Apart, plan: Plan) -> WriteSection:
    """WRITE at several concurrencies, and ready batches beside them."""
    written = documents(DIFFERENT, pairs=PAIRS, seed=plan.seed)
    runs = [await _write_run(_turned(targets, run), other, written, plan) for run in _runs(plan)]
    return WriteSection(pairs=PAIRS, steps=STEPS, runs=tuple(runs))


async def _write_run(
    targets: Sequence[Target], other: Apart, written: Sequence[Document], plan: Plan
) -> tuple[Load, ...]:
    loads: list[Load] = []
    for concurrency in WRITERS:
        for target in targets:
            requests = target.writes(written, steps=STEPS)
            loads.append(await _load(target, requests, concurrency, plan))
        if concurrency == BATCH:
            batch = written[:BATCH]
            loads.append(await other.run(ready_batches, batch, steps=STEPS, seconds=plan.seconds))
    return tuple(loads)


async def reads(targets: Sequence[Target], other: Apart, plan: Plan) -> ReadSection:
    """READ at several concurrencies, and beside writers."""
    written = documents(DIFFERENT, pairs=PAIRS, seed=plan.seed)
    requests = {target.via: await target.reads(written) for target in targets}
    runs: list[tuple[Load, ...]] = []
    mixed: list[tuple[Mixed, ...]] = []
    for run in _runs(plan):
        turned = _turned(targets, run)
        runs.append(
            tuple(
                [
                    await _load(target, requests[target.via], concurrency, plan)
                    for concurrency in READERS
                    for target in turned
                ]
            )
        )
        mixed.append(
            tuple(
                [
                    await _mixed(target, requests[target.via], other, written, plan)
                    for target in turned
                ]
            )
        )
    return ReadSection(pairs=PAIRS, steps=STEPS, runs=tuple(runs), mixed=tuple(mixed))


async def _mixed(
    target: Target,
    requests: Sequence[Request],
    other: Apart,
    written: Sequence[Document],
    plan: Plan,
) -> Mixed:
    idle = await _load(target, requests, FEW_READERS, plan)
    step = await other.run(step_seconds, written[:BATCH], steps=STEPS, rounds=STEP_ROUNDS)
    async with target.saturated(
        written, steps=STEPS, concurrency=BATCH, warm_up=plan.seconds / 5
    ) as writing:
        saturated = await _load(target, requests, FEW_READERS, plan)
    return Mixed(via=target.via, idle=idle, saturated=saturated, writes=writing[0], step=step)


async def _load(target: Target, requests: Sequence[Request], concurrency: int, plan: Plan) -> Load:
    return await load(requests, via=target.via, concurrency=concurrency, seconds=plan.seconds)


def _runs(plan: Plan) -> range:
    return range(plan.runs)


def _turned(targets: Sequence[Target], run: int) -> Sequence[Target]:
    """Who is first in this run: each in turn."""
    first = run % len(targets)
    return [*targets[first:], *targets[:first]]
