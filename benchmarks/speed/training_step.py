"""Times of a training step: straightforward implementations beside ours, in one run.

`gradmem-train bench --help` has the options.
"""

import math
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.measurement import (
    alternate,
    as_json,
    header,
    median_ratio,
    peak_bytes,
    save_result,
    this_command,
)
from benchmarks.speed.implementations import IMPLEMENTATIONS, Implementation, Setting, Step, able
from benchmarks.training_results import StepTime, StepTimeRow
from gradmem_core.backbone import Backbone
from gradmem_core.checkpoints.checkpoint import load_checkpoint
from gradmem_core.config import MemoryConfig
from gradmem_core.errors import GradMemError, InputError, RecipeError
from gradmem_core.model import MemoryModel
from training.loop.batch import IGNORED, Batch, collate
from training.loop.parallel import device_of
from training.problems import fail
from training.recipe import Recipe, load_recipe
from training.seeds import stream
from training.tasks import task_by_name

TOLERANCE = 1e-5
"Largest distance of a parameter's gradient from the first implementation's, relative."
TOLERANCE_OF_CHECKPOINTS = {torch.float32: 1e-2, torch.bfloat16: math.inf}
"The same where trained inner rates amplify what rounding differs by; finite at least."
DEVICES = ("cpu", "cuda")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WRITE_LOSS_WEIGHT = 0.1
"Of a checkpoint, whose recipe is not asked for."

Work = Callable[[], None]


@dataclass(frozen=True)
class Plan:
    """The steps to time."""

    sizes: Sequence[int]
    "Context sizes: in the recipe's unit, or in tokens."
    write_steps: int
    "Write steps (K)."
    rounds: int
    "Steps that are timed of each implementation."
    threads: int
    "CPU threads."
    seed: int
    "Seed of the weights and the data, in place of the recipe's."
    only: Sequence[str] = ()
    "Names of implementations; all that can where there are none."
    device: str = "cpu"
    "Device of the model, a word of DEVICES."
    dtype: str = "float32"
    "Dtype that the backbone computes in, a name in DTYPES."
    profile: bool = False
    "True: say on stderr what a step of each spends its time on."


@dataclass(frozen=True)
class Shapes:
    """Batches of random tokens."""

    contexts: int
    "Contexts of a batch."
    questions: int
    "Questions of each."
    question_tokens: int
    "Tokens of each question with its answer; the last third is the answer."


@dataclass(frozen=True)
class Trial:
    """A model with its batches."""

    model: MemoryModel
    batch: Callable[[int], Batch]
    "Makes a batch of contexts of a size."
    write_loss_weight: float
    tolerance: float
    "Most that gradients may differ by."


def of_recipe(recipe: Recipe, plan: Plan) -> Trial:
    """Build a recipe's model with fresh weights, and its micro-batches.

    Raises:
        InputError: The recipe's writer is not GradMem, or it clips the inner gradient.
    """
    model = _fresh(recipe, plan.seed).to(device_of(plan.device))
    make = partial(_batch, recipe, seed=plan.seed, device=model.initial_memory.device)
    return Trial(model, make, recipe.write_loss_weight, TOLERANCE)


def of_checkpoint(reference: str, shapes: Shapes, plan: Plan) -> Trial:
    """Load a checkpoint to train with a frozen backbone, on batches of random tokens.

    Raises:
        CheckpointError: It cannot be loaded.
    """
    model = load_checkpoint(reference, device=str(device_of(plan.device)), merge=False).model
    model.train_write_side()
    tolerance = TOLERANCE_OF_CHECKPOINTS[DTYPES[plan.dtype]]
    make = partial(_random_batch, model, shapes, plan.seed)
    return Trial(model, make, WRITE_LOSS_WEIGHT, tolerance)


def step_times(trial: Trial, plan: Plan, *, command: str) -> StepTime:
    """Time whole training steps (WRITE, READ, backward) of every implementation, in turn.

    Peak memory is the most that a step has allocated at once beyond the model and what an
    implementation holds between steps, gradients included.

    Raises:
        InputError: An implementation asked for cannot make the model's step.
        ContextTooLongError: A size is beyond the memory's limits.
        WriteStepsError: So are the write steps.
        ArithmeticError: An implementation's gradient differs by too much.
    """
    started = time.perf_counter()
    torch.set_num_threads(plan.threads)
    model = trial.model
    setting = Setting(plan.write_steps, trial.write_loss_weight, DTYPES[plan.dtype])
    made = {name: make(model, setting) for name, make in _asked(model, setting, plan).items()}
    rows = [row for size in plan.sizes for row in _rows(trial, plan, made, size)]
    about = header(command, seed=plan.seed, started=started)
    return StepTime(
        **about.model_dump(),
        device=_name(model.initial_memory.device),
        dtype=plan.dtype,
        rows=tuple(rows),
    )


def _rows(trial: Trial, plan: Plan, made: Mapping[str, Step], size: int) -> list[StepTimeRow]:
    """Time a step of every implementation at a size."""
    model, batch = trial.model, trial.batch(size)
    works = {name: partial(_whole, model, step, batch) for name, step in made.items()}
    _check_gradients(model, works, trial.tolerance)
    memory = {name: _peak_memory(model, work) for name, work in works.items()}
    seconds = alternate(works, plan.rounds)
    if plan.profile:
        for name, work in works.items():
            _profile(f"{name}, size {size}", work, model.initial_memory.device)
    first = next(iter(seconds.values()))
    return [
        StepTimeRow(
            name=name,
            size=size,
            write_steps=plan.write_steps,
            contexts_per_second=len(batch.lengths) / statistics.median(taken),
            relative=median_ratio(first, taken),
            peak_memory_bytes=memory[name],
        )
        for name, taken in seconds.items()
    ]


def _asked(model: MemoryModel, setting: Setting, plan: Plan) -> dict[str, Implementation]:
    can = able(model, setting)
    if unable := sorted({*plan.only} - can.keys()):
        raise InputError(
            f"--only: {', '.join(unable)} cannot make this model's step; take some of"
            f" {'; '.join(can)}"
        )
    return {name: make for name, make in can.items() if not plan.only or name in plan.only}


def _fresh(recipe: Recipe, seed: int) -> MemoryModel:
    config = recipe.memory
    if recipe.writer != "gradmem" or not isinstance(config, MemoryConfig):
        raise InputError(f"{recipe.name}: the writer is {recipe.writer}; take a recipe of gradmem")
    if config.inner_gradient_clip is not None:
        raise InputError(f"{recipe.name}: leave out memory.inner_gradient_clip")
    if recipe.backbone is None:
        raise RecipeError("backbone: the benchmark builds its models, so the recipe has to say how")
    vocabulary = len(task_by_name(recipe.task).tokenizer())
    backbone = Backbone.from_config({**recipe.backbone, "vocab_size": vocabulary}, seed=seed)
    return MemoryModel(backbone, config, seed=seed)


def _batch(recipe: Recipe, size: int, *, seed: int, device: torch.device) -> Batch:
    task, count = task_by_name(recipe.task), recipe.batch.micro_batch
    if count is None:
        raise RecipeError("batch: the benchmark takes recipes that say batch.micro_batch")
    examples = [
        task.sample(stream("train", seed, size, row), size=size, queries=recipe.batch.queries)
        for row in range(count)
    ]
    return collate(examples, task.format(), device=device)


def _random_batch(model: MemoryModel, shapes: Shapes, seed: int, size: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    vocabulary, device = model.backbone.vocabulary_size, model.initial_memory.device

    def ids(*shape: int) -> Tensor:
        return torch.randint(vocabulary, shape, generator=generator).to(device)

    query_ids = ids(shapes.contexts, shapes.questions, shapes.question_tokens)
    places = torch.arange(shapes.question_tokens, device=device)
    labels = query_ids.where(places >= 2 * shapes.question_tokens // 3, IGNORED)
    lengths = torch.full((shapes.contexts,), size, device=device)
    return Batch(ids(shapes.contexts, size), lengths, query_ids, labels)


def _whole(model: MemoryModel, step: Step, batch: Batch) -> None:
    """Make a whole training step, up to fresh gradients in the model's parameters."""
    model.zero_grad()
    step(batch)
    if batch.lengths.is_cuda:
        torch.cuda.synchronize()


def _check_gradients(model: MemoryModel, works: Mapping[str, Work], tolerance: float) -> None:
    """Hold every implementation's gradient against that of the first."""
    expected: dict[str, Tensor] = {}
    for implementation, work in works.items():
        work()
        found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        expected = expected or found
        if found.keys() != expected.keys():
            raise ArithmeticError(f"{implementation}: other parameters have a gradient")
        errors = {name: _distance(grad, expected[name]) for name, grad in found.items()}
        worst = max(errors, key=errors.__getitem__)
        typer.echo(f"{implementation}: gradients differ by at most {errors[worst]:.1e}", err=True)
        if not errors[worst] < tolerance:
            raise ArithmeticError(f"{implementation}: the gradient of {worst} is another")


def _distance(found: Tensor, expected: Tensor) -> float:
    """Return the distance relative to what is expected; 0 between two zeros."""
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))


def _peak_memory(model: MemoryModel, work: Work) -> int:
    """Return the most bytes of tensors that a step has allocated at once."""
    model.zero_grad()  # or the step would free gradients that it did not allocate
    if model.initial_memory.is_cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() - before
    return peak_bytes(work)


def _profile(title: str, work: Work, device: torch.device) -> None:
    """Print what a step spends its time on: kernels on a GPU, operations on a CPU."""
    activities, order = [ProfilerActivity.CPU], "self_cpu_time_total"
    if device.type == "cuda":
        activities, order = [*activities, ProfilerActivity.CUDA], "self_cuda_time_total"
    with profile(activities=activities) as profiled:
        work()
    averages = profiled.key_averages()
    table = averages.table(sort_by=order, row_limit=25, max_name_column_width=60)
    typer.echo(f"{title}\n{table}", err=True)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def bench(
    recipe: Annotated[str, typer.Argument(help="A TOML file, or the name of a bundled recipe.")] = (
        "kv-16"
    ),
    pairs: Annotated[
        str,
        typer.Option(
            "--sizes",
            "--pairs",
            help="Sizes of contexts, for instance 8,16 pairs; with --checkpoint their tokens.",
        ),
    ] = "8,16,32",
    steps: Annotated[int, typer.Option(min=1, help="Write steps (K).")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Timed steps of each implementation.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the weights and the data.")] = 1,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="Time this checkpoint's step on random tokens in place of a recipe's."),
    ] = None,
    contexts: Annotated[
        int, typer.Option(min=1, help="With --checkpoint: contexts of a batch.")
    ] = 4,
    questions: Annotated[
        int, typer.Option(min=1, help="With --checkpoint: questions of each.")
    ] = 4,
    question_tokens: Annotated[
        int, typer.Option(min=3, help="With --checkpoint: tokens of a question and its answer.")
    ] = 32,
    only: Annotated[
        str, typer.Option(help=f"Some of {'; '.join(IMPLEMENTATIONS)}: separated by semicolons.")
    ] = "",
    device: Annotated[str, typer.Option(help="Where to compute: cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="What the backbone computes in.")] = "float32",
    profiled: Annotated[
        bool, typer.Option("--profile", help="Print what each step spends its time on.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Result file (JSON) to write.")] = None,
) -> None:
    """Time a training step beside straightforward implementations, and print the result file."""
    try:
        _check_word("--device", device, DEVICES)
        _check_word("--dtype", dtype, DTYPES)
        names = [name.strip() for name in only.split(";") if name.strip()]
        sizes = [_number(part) for part in pairs.split(",")]
        plan = Plan(sizes, steps, rounds, threads, seed, names, device, dtype, profiled)
        if checkpoint is None:
            trial = of_recipe(load_recipe(recipe), plan)
        else:
            shapes = Shapes(contexts, questions, question_tokens)
            trial = of_checkpoint(checkpoint, shapes, plan)
        result = step_times(trial, plan, command=this_command())
        if output:
            save_result(output, result)
    except GradMemError as error:
        fail(error)
    typer.echo(as_json(result), nl=False)


def _check_word(option: str, word: str, known: Collection[str]) -> None:
    if word not in known:
        raise InputError(f"{option}: {word!r} is not known; take {' or '.join(known)}")


def _number(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise InputError(f"--sizes: {text!r} is not a number from 1")
    return int(text)
