# ruff: noqa: T201
"""Compare ways of WRITE in equal time, from one checkpoint, with the project's own trainer.

    python variants.py SECONDS RESULTS.json [--device cpu --smoke]

One process trains every variant for each seed in turn (every variant has a seed before the next
seed begins), on contexts that were drawn before and are the same for all variants of a seed. The
clock of a run starts after its first step. The average weights are then measured in float32 on
contexts that no run saw.
"""

import argparse
import gc
import json
import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from gradmem_core.errors import NonFiniteLossError
from gradmem_core.model import MemoryModel
from gradmem_core.reading.scoring import read
from gradmem_core.writing.descent import write
from training.loop.batch import IGNORED, Batch, collate
from training.loop.curriculum import Progress
from training.loop.data import load_training_data
from training.loop.feed import Drawer, Parts, Place
from training.loop.gradient import MicroBatch, StepGradient
from training.loop.trainer import Trainer
from training.recipes.loading import load_recipe
from training.recipes.schema import Recipe

VARIANTS: dict[str, list[str]] = {
    "plain": [],
    "rates x3": ["memory.inner_rate_factor=3"],
    "rates x10": ["memory.inner_rate_factor=10"],
    "falling": ["memory.inner_rate_decay=geometric"],
    "per step": ["memory.inner_rate_per_step=true"],
    "normalised": ["memory.inner_gradient_normalise=true"],
    # By request only, see --variants.
    "rates x2": ["memory.inner_rate_factor=2"],
    "falling x2": ["memory.inner_rate_decay=geometric", "memory.inner_rate_decay_ratio=2"],
    "falling linear": ["memory.inner_rate_decay=linear"],
    "normalised, per step": [
        "memory.inner_gradient_normalise=true",
        "memory.inner_rate_per_step=true",
    ],
}
DEFAULT = list(VARIANTS)[:6]
ATTEMPTS_IN_A_DRAW = 4
CONTEXTS_AT_ONCE = 128
"Contexts of a batch of the evaluation."
WARM_UP_SIZES = 8
"Sizes of the warm-up: what is compiled for one length serves others."


@dataclass(frozen=True)
class Plan:
    """What is compared."""

    seconds: float
    tokens: int | None
    "In place of seconds, where other work disturbs the clock: tokens of the contexts."
    device: str
    recipe: str
    start: str
    size: int
    rehearsal: float
    contexts: int
    micro_batch: int
    queries: int
    warmup_steps: int
    decay_share: float
    average_decay: float
    write_steps: tuple[int, ...]
    also: tuple[str, ...]
    "Further overrides of the recipe, for all variants."

    def build_recipe(self, variant: str, seed: int) -> Recipe:
        """Return the recipe of a run."""
        steps = list(self.write_steps)
        return load_recipe(
            self.recipe,
            [
                f"name=variant-{seed}",
                f"seed={seed}",
                f"start={self.start}",
                f"budget_seconds={self.seconds if self.tokens is None else 1e9}",
                f"budget_tokens={self.tokens or 10**15}",
                f"schedule=[{{until = 1.0, write_steps = {steps}}}]",
                f"device={self.device}",
                "workers=0",
                f"curriculum.stages=[{{size = {self.size}}}]",
                f"curriculum.rehearsal={self.rehearsal}",
                f"batch.contexts={self.contexts}",
                f"batch.micro_batch={self.micro_batch}",
                f"batch.queries={self.queries}",
                f"optimizer.warmup_steps={self.warmup_steps}",
                f"optimizer.decay_share={self.decay_share}",
                f"optimizer.average_decay={self.average_decay}",
                *self.also,
                *VARIANTS[variant],
            ],
        )


# The contexts, drawn once


@cache
def _drawer(plan: Plan, seed: int) -> Drawer:
    torch.set_num_threads(1)
    recipe = plan.build_recipe("plain", seed)
    return Drawer(recipe, load_training_data(recipe))


def place_micro_batches(recipe: Recipe, attempt: int) -> list[Place]:
    """Return the places of a step's micro-batches, as the trainer does in a run of one stage."""
    assert recipe.curriculum is not None
    draw = partial(Progress().draw_size, recipe.curriculum, recipe.seed, attempt)
    return [Place(attempt, index, draw(index)) for index in range(recipe.batch.count)]


def draw_contexts(
    plan: Plan, seed: int, attempts: range
) -> list[tuple[Place, list[dict[str, Any]]]]:
    """Draw the micro-batches of some steps, as arrays, since another process takes them."""
    drawer = _drawer(plan, seed)
    recipe = plan.build_recipe("plain", seed)
    places = [place for attempt in attempts for place in place_micro_batches(recipe, attempt)]
    return [(place, [part.to_arrays() for part in drawer.draw(place)[0]]) for place in places]


def draw_unseen(plan: Plan, size: int, rows: range) -> dict[str, Any]:
    """Draw contexts to measure with, asked for every pair."""
    data = load_training_data(plan.build_recipe("plain", 0))
    examples = data.task.examples(
        split="selection", seed=0, size=size, count=rows.stop, queries=size
    )[rows.start :]
    return collate(examples, data.form).to_arrays()


@dataclass
class Pool:
    """Micro-batches of a seed, drawn before; the trainer takes it for a `Feed`."""

    plan: Plan
    seed: int
    batches: dict[Place, Parts] = field(default_factory=dict)
    missing: int = 0
    "Micro-batches that had to be drawn during a run, which costs it time."

    def expect(self, places: Any) -> None:  # noqa: ANN401
        """Do nothing: all is drawn."""

    def take(self, place: Place, device: torch.device) -> Parts:
        """Return a micro-batch."""
        if place not in self.batches:
            self.missing += 1
            ((_, arrays),) = (
                drawn
                for drawn in draw_contexts(
                    self.plan, self.seed, range(place.attempt, place.attempt + 1)
                )
                if drawn[0] == place
            )
            self.batches[place] = _unpack(arrays, device)
        return self.batches[place]


def _unpack(arrays: list[dict[str, Any]], device: torch.device) -> Parts:
    return [Batch.from_arrays(part).to(device) for part in arrays]


def draw_all(
    plan: Plan,
    seeds: list[int],
    attempts: int,
    unseen: dict[int, int],
    workers: int,
    device: torch.device,
) -> tuple[dict[int, Pool], dict[int, list[Batch]]]:
    """Draw everything that the runs train on, and `unseen` contexts by size to measure with."""
    pools = {seed: Pool(plan, seed) for seed in seeds}
    cuts = [range(a, min(a + ATTEMPTS_IN_A_DRAW, attempts)) for a in range(0, attempts, 4)]
    tasks = [(seed, cut) for seed in seeds for cut in cuts]
    rows = {
        (size, start): range(start, min(start + CONTEXTS_AT_ONCE, count))
        for size, count in unseen.items()
        for start in range(0, count, CONTEXTS_AT_ONCE)
    }
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as processes:
        drawn_rows = [
            (size, processes.submit(draw_unseen, plan, size, part))
            for (size, _), part in rows.items()
        ]
        drawn = [(seed, processes.submit(draw_contexts, plan, seed, cut)) for seed, cut in tasks]
        for seed, future in drawn:
            for place, arrays in future.result():
                pools[seed].batches[place] = _unpack(arrays, device)
        batches: dict[int, list[Batch]] = {size: [] for size in unseen}
        for size, unseen_future in drawn_rows:
            batches[size].append(Batch.from_arrays(unseen_future.result()).to(device))
    return pools, batches


# Training and measuring


def warm_up(plan: Plan, pools: dict[int, Pool], folder: Path) -> None:
    """Let the device compile and allocate with a model that is thrown away."""
    recipe = plan.build_recipe("plain", min(pools))
    trainer = Trainer(recipe, folder)
    gradient = StepGradient(trainer.writer, recipe, trainer.data.memory_tokens)
    by_size = {
        place.size: parts for pool in pools.values() for place, parts in pool.batches.items()
    }
    sizes = sorted(by_size, reverse=True)
    for turn in range(WARM_UP_SIZES):
        size = sizes[turn * (len(sizes) - 1) // (WARM_UP_SIZES - 1)]
        for steps in sorted(set(plan.write_steps), reverse=True):
            with suppress(NonFiniteLossError):
                gradient.compute([MicroBatch(by_size[size], steps)], share=1.0)
    trainer.stepper.make_step(pools[min(pools)])  # type: ignore[arg-type]
    synchronise(trainer.device)


def train(trainer: Trainer, pool: Pool) -> dict[str, Any]:
    """Train until the clock says so; return what was done."""
    state, losses, matches = trainer.state, [], []
    began = started = before = time.monotonic()
    longest = 0.0
    diverged = False
    while state.spent < 1:
        try:
            result = trainer.stepper.make_step(pool)  # type: ignore[arg-type]
        except NonFiniteLossError:
            diverged = True
            break
        now = time.monotonic()
        if state.attempt == 1:
            started = now  # the first step does not count
        else:
            longest = max(longest, now - before)
        before = now
        state.seconds = now - started
        if result is not None:
            losses.append(result.loss)
            matches.append(fmean(outcome.exact_match for outcome in result.outcomes))
    last = max(1, len(losses) // 4)
    return {
        "diverged": diverged,
        "steps": state.step,
        "skipped": state.skipped,
        "contexts": state.contexts,
        "seconds": state.seconds,
        "first_step_seconds": started - began,
        "longest_step_seconds": longest,
        "drawn_late": pool.missing,
        "loss_at_first": losses[0] if losses else math.nan,
        "loss_at_last": fmean(losses[-last:]) if losses else math.nan,
        "batch_match_at_last": fmean(matches[-last:]) if matches else math.nan,
        "losses": [round(loss, 4) for loss in losses],
    }


def measure(
    model: MemoryModel, unseen: dict[int, list[Batch]], write_steps: tuple[int, ...]
) -> dict[str, Any]:
    """Return the exact match in per cent by size and K; a context whose WRITE diverges is wrong."""
    with exact_products():
        return {
            str(size): {
                f"K={steps}": round(100 * fmean_weighted(model, batches, steps), 3)
                for steps in sorted(set(write_steps))
            }
            for size, batches in unseen.items()
        }


def fmean_weighted(model: MemoryModel, batches: list[Batch], steps: int) -> float:
    """Return the mean exact match over batches of contexts."""
    right = sum(count_right(model, batch, steps) for batch in batches)
    return right / sum(len(batch.lengths) for batch in batches)


@torch.no_grad()
def count_right(model: MemoryModel, batch: Batch, steps: int) -> float:
    """Return the sum of the contexts' shares of questions that are answered rightly.

    The likeliest token is right at every place of the answer up to the mark that ends it, which is
    when greedy generation gives the right answer.
    """
    try:
        memory = write(
            model, batch.context_ids, batch.lengths, steps, create_graph=False, measure=False
        ).memory
    except NonFiniteLossError as error:
        kept = sorted(set(range(len(batch.lengths))) - set(error.samples))
        if not kept:
            return 0.0
        rows = torch.tensor(kept, device=batch.lengths.device)
        rest = (batch.context_ids, batch.lengths, batch.query_ids, batch.labels)
        return count_right(model, Batch(*(tensor[rows] for tensor in rest)), steps)
    right: Tensor = torch.zeros(len(memory), device=memory.device)
    for start in range(0, len(memory), 32):
        rows_ = slice(start, start + 32)
        logits = read(model, memory[rows_], batch.query_ids[rows_])[:, :, :-1]
        labels = batch.labels[rows_].clone()
        labels[..., -1] = IGNORED  # what follows the mark that ends the answer
        predicted = logits.argmax(dim=-1)
        right[rows_] = ((predicted == labels) | (labels == IGNORED)).all(dim=-1).float().mean(dim=1)
    return float(right.sum())


@contextmanager
def exact_products() -> Iterator[None]:
    """Compute products in whole float32 inside the block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe_rates(model: MemoryModel) -> dict[str, Any]:
    """Return the step sizes that a model has."""
    assert model.log_inner_learning_rate is not None
    factors = model.log_inner_step_factors
    return {
        "mean_rate": float(model.log_inner_learning_rate.detach().exp().mean()),
        "step_factors": None if factors is None else factors.detach().exp().tolist(),
    }


# The table


def summarise(runs: list[dict[str, Any]]) -> str:
    """Return a table of exact match: means over seeds, and differences from plain at each seed."""
    columns = [(size, steps) for size in runs[0]["match"] for steps in runs[0]["match"][size]]
    plain = {run["seed"]: run["match"] for run in runs if run["variant"] == "plain"}
    lines = [f"{'variant':22}{'seeds':>6}{'steps':>7}{'contexts':>10}"]
    lines[0] += "".join(f"{size + ' ' + steps:>12}" for size, steps in columns)
    lines[0] += f"   difference at {columns[0][0]} {columns[0][1]} and {columns[1][1]} by seed"
    for variant in dict.fromkeys(run["variant"] for run in runs):
        of = [run for run in runs if run["variant"] == variant]
        line = f"{variant:22}{len(of):>6}{fmean(run['steps'] for run in of):>7.0f}"
        line += f"{fmean(run['contexts'] for run in of):>10.0f}"
        for size, steps in columns:
            line += f"{fmean(run['match'][size][steps] for run in of):>12.2f}"
        for run in of:
            if run["seed"] in plain:
                pairs = [
                    run["match"][size][steps] - plain[run["seed"]][size][steps]
                    for size, steps in columns[:2]
                ]
                line += "   " + " ".join(f"{pair:+.2f}" for pair in pairs)
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    """Train, measure and report."""
    args = parse_arguments()
    plan = Plan(
        seconds=args.seconds,
        tokens=args.tokens,
        device=args.device,
        recipe=args.recipe,
        start=args.start,
        size=args.size,
        rehearsal=args.rehearsal,
        contexts=args.contexts,
        micro_batch=args.micro_batch,
        queries=args.queries,
        warmup_steps=args.warmup_steps,
        decay_share=args.decay_share,
        average_decay=args.average_decay,
        write_steps=tuple(args.write_steps),
        also=tuple(args.set),
    )
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {text}", flush=True)

    device = torch.device(args.device)
    for seed in args.seeds:
        for variant in args.variants:
            plan.build_recipe(variant, seed)  # refuses what cannot be run, before any compute
    unseen_counts = dict.fromkeys(args.sizes, args.unseen)
    pools, unseen = draw_all(plan, args.seeds, args.attempts, unseen_counts, args.workers, device)
    say(f"drawn: {sum(len(pool.batches) for pool in pools.values())} micro-batches")
    report: dict[str, Any] = {
        "plan": {**vars(args), "results": str(args.results)},
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "runs": [],
    }
    with tempfile.TemporaryDirectory() as scratch:
        counter = iter(range(10**6))
        folder = lambda: Path(scratch) / str(next(counter))  # noqa: E731
        untrained = Trainer(plan.build_recipe("plain", args.seeds[0]), folder())
        report["start"] = measure(untrained.model, unseen, plan.write_steps)
        say(f"{plan.start} before training: {json.dumps(report['start'])}")
        del untrained
        if device.type == "cuda":
            warm_up(plan, pools, folder())
            say(f"warm, {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at most")
        for seed in args.seeds:
            for variant in args.variants:
                gc.collect()
                recipe = plan.build_recipe(variant, seed)
                trainer = Trainer(recipe, folder())
                before = describe_rates(trainer.model)
                synchronise(trainer.device)
                run = {"seed": seed, "variant": variant, **train(trainer, pools[seed])}
                result = trainer.build_result().model
                assert isinstance(result, MemoryModel)
                run |= {
                    "match": measure(result, unseen, plan.write_steps),
                    "rates_before": before,
                    "rates": describe_rates(trainer.model),
                }
                report["runs"].append(run)
                args.results.parent.mkdir(parents=True, exist_ok=True)
                args.results.write_text(json.dumps(report, indent=1) + "\n")
                say(
                    f"seed {seed} {variant}: {json.dumps(run['match'])} {run['steps']} steps"
                    f" {run['contexts']} contexts {run['seconds']:.1f} s, loss"
                    f" {run['loss_at_first']:.3f} -> {run['loss_at_last']:.3f}, skipped"
                    f" {run['skipped']}{', diverged' * run['diverged']}, drawn late"
                    f" {run['drawn_late']}, rates {run['rates']}"
                )
                del trainer, result
    print(summarise(report["runs"]))


def parse_arguments() -> argparse.Namespace:
    """Read the command line; `--smoke` makes everything tiny."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("seconds", type=float)
    parser.add_argument("results", type=Path)
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--tokens", type=int, help="train for so many in place of SECONDS")
    parser.add_argument("--variants", nargs="+", default=DEFAULT, choices=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--recipe", default="kv-96")
    parser.add_argument("--start", default="kv-48")
    parser.add_argument("--size", type=int, default=64, help="pairs")
    parser.add_argument("--rehearsal", type=float, default=0.35, help="share of smaller contexts")
    parser.add_argument("--contexts", type=int, default=64, help="of a step")
    parser.add_argument("--micro-batch", type=int, default=64)
    parser.add_argument("--queries", type=int, default=32)
    parser.add_argument("--write-steps", nargs="+", type=int, default=[4, 5])
    parser.add_argument("--warmup-steps", type=int, default=5)
    parser.add_argument("--decay-share", type=float, default=0.7)
    parser.add_argument("--average-decay", type=float, default=0.9)
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 48], help="measured")
    parser.add_argument("--unseen", type=int, default=256, help="contexts of each size")
    parser.add_argument("--attempts", type=int, help="steps of each seed that are drawn before")
    parser.add_argument("--workers", type=int, default=max(1, min(14, (os.cpu_count() or 2) - 1)))
    parser.add_argument("--set", nargs="*", default=[], help="further overrides of the recipe")
    args = parser.parse_args()
    if args.smoke:
        args.size, args.sizes, args.unseen, args.queries = 6, [6, 4], 8, 6
        args.contexts = args.micro_batch = 4
        args.seeds, args.workers = args.seeds[:2], 1
    if args.attempts is None:
        args.attempts = math.ceil(12 * args.seconds) + 10
    return args


if __name__ == "__main__":
    main()
