"""`gradmem-bench training-step`: straightforward implementations beside ours, in one run.

The gradient of every implementation is held against that of the first before anything is timed.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Literal

import torch
import typer
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.command import Measurement
from benchmarks.options import Seed, positive, separated
from benchmarks.rows import TrainingStep
from benchmarks.speed.implementations import IMPLEMENTATIONS, Setting, able
from benchmarks.speed.trials import Trial, checkpoint_trial, recipe_trial
from benchmarks.timing import alternate, median_ratio, peak_bytes
from gradmem_core.errors import InputError
from gradmem_core.model import MemoryModel
from training.loop.batch import Batch
from training.loop.parallel import choose_device
from training.recipes.loading import load_recipe

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Work = Callable[[], None]
Sizes = Annotated[
    Sequence[int],
    separated(
        "--sizes",
        "--pairs",
        parse=positive,
        help="Sizes of contexts, in pairs for `kv`; with --checkpoint in tokens.",
    ),
]


def measure_training_step(
    recipe: Annotated[str, typer.Argument(help="A TOML file, or the name of a bundled recipe.")] = (
        "kv-16"
    ),
    sizes: Sizes = (8, 16, 32),
    steps: Annotated[int, typer.Option(min=1, help="Write steps (K).")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Timed steps of each implementation.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    seed: Seed = 1,
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
        str,
        typer.Option(
            help="Implementations to time, separated by semicolons, of"
            f" {'; '.join(IMPLEMENTATIONS)}; by default all that apply."
        ),
    ] = "",
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Device of the model.")] = "cpu",
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Dtype that the backbone computes in.")
    ] = "float32",
    profiled: Annotated[
        bool, typer.Option("--profile", help="Print where each step spends its time.")
    ] = False,
) -> Measurement:
    """Time training steps beside straightforward implementations.

    A step is WRITE, READ and the gradient through both.

    Peak memory is the most that a step has allocated at once beyond the model and what an
    implementation holds between steps, gradients included.
    """
    torch.set_num_threads(threads)
    place = choose_device(device)
    if checkpoint is None:
        trial = recipe_trial(load_recipe(recipe), seed=seed, device=place)
    else:
        shape = (contexts, questions, question_tokens)
        trial = checkpoint_trial(checkpoint, DTYPES[dtype], shape=shape, seed=seed, device=place)
    setting = Setting(steps, trial.write_loss_weight, DTYPES[dtype])
    names = [name.strip() for name in only.split(";") if name.strip()]
    rows = (
        row
        for size in sizes
        for row in step_rows(trial, setting, size, names=names, rounds=rounds, profiled=profiled)
    )
    return Measurement("speed", rows, trial.subject, place)


def step_rows(
    trial: Trial,
    setting: Setting,
    size: int,
    *,
    names: Sequence[str] = (),
    rounds: int,
    profiled: bool = False,
) -> Iterator[TrainingStep]:
    """Time a step of every implementation at a size, in turn.

    Args:
        trial: Model and batches.
        setting: The work of a step.
        size: Size of the contexts.
        names: Implementations; by default all that can make the step.
        rounds: Timed steps of each.
        profiled: Print on stderr what a step of each spends its time on.

    Raises:
        InputError: An implementation cannot make the model's step.
        ContextTooLongError: The size is beyond the memory's limits.
        WriteStepsError: So are the write steps.
        ArithmeticError: An implementation's gradient differs by too much.
    """
    model, batch = trial.model, trial.batch(size)
    works = _works(model, setting, batch, names)
    _check_gradients(model, works, trial.tolerance)
    memory = {name: _peak_memory(model, work) for name, work in works.items()}
    seconds = alternate(works, rounds)
    if profiled:
        for name, work in works.items():
            _profile(f"{name}, size {size}", work, model.initial_memory.device)
    first = next(iter(seconds.values()))
    for name, taken in seconds.items():
        yield TrainingStep(
            implementation=name,
            dtype=str(setting.dtype).removeprefix("torch."),
            size=size,
            write_steps=setting.write_steps,
            contexts_per_second=len(batch.lengths) / statistics.median(taken),
            relative=median_ratio(first, taken),
            peak_memory_bytes=memory[name],
        )


def _works(
    model: MemoryModel, setting: Setting, batch: Batch, names: Sequence[str]
) -> dict[str, Work]:
    """Return whole steps by implementation, up to fresh gradients in the model's parameters."""
    makers = able(model, setting)
    if unable := sorted({*names} - makers.keys()):
        raise InputError(
            f"--only: {', '.join(unable)} cannot make this model's step; take some of"
            f" {'; '.join(makers)}"
        )

    def work(step: Callable[[Batch], None]) -> None:
        model.zero_grad()
        step(batch)
        if batch.lengths.is_cuda:
            torch.cuda.synchronize()

    chosen = {name: make for name, make in makers.items() if not names or name in names}
    return {name: partial(work, make(model, setting)) for name, make in chosen.items()}


def _check_gradients(model: MemoryModel, works: Mapping[str, Work], tolerance: float) -> None:
    """Hold every implementation's gradient against that of the first."""
    expected: dict[str, Tensor] = {}
    for implementation, work in works.items():
        work()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        expected = expected or gradients
        if gradients.keys() != expected.keys():
            raise ArithmeticError(f"{implementation}: the parameters with a gradient differ")
        errors = {name: _distance(grad, expected[name]) for name, grad in gradients.items()}
        worst = max(errors, key=errors.__getitem__)
        typer.echo(f"{implementation}: gradients differ by at most {errors[worst]:.1e}", err=True)
        if not errors[worst] < tolerance:
            raise ArithmeticError(f"{implementation}: the gradient of {worst} differs by too much")


def _distance(gradient: Tensor, expected: Tensor) -> float:
    """Return the distance relative to what is expected; 0 between two zeros."""
    return float((gradient - expected).norm() / expected.norm().clamp(min=1e-30))


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
