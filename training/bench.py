"""Times a training step: a straightforward unrolled one beside ours, in one run.

`gradmem-train bench --help` has the options. Shapes: `B` contexts, `Q` queries of each, `T`
tokens, `m` memory vectors, `d` width, `V` vocabulary, `K` write steps.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradmem_core.backbone import Backbone
from gradmem_core.config import MemoryConfig
from gradmem_core.errors import GradMemError, InputError, RecipeError
from gradmem_core.measurement import (
    alternate,
    as_json,
    header,
    median_ratio,
    peak_bytes,
    save_result,
    this_command,
)
from gradmem_core.model import MemoryModel
from gradmem_core.unrolled import unrolled_steps
from training.batch import IGNORED, Batch, collate
from training.problems import fail
from training.recipe import Recipe, load_recipe
from training.results import StepTime, StepTimeRow
from training.seeds import stream
from training.tasks import task_by_name
from training.writers.gradmem import GradMem

TOLERANCE = 1e-5
"Largest distance of a parameter's gradient from the straightforward one's, relative."

Implementation = Callable[[MemoryModel, Batch, int], tuple[Tensor, Tensor]]
"""Model, batch and K to the logits of the queries' tokens but the first `(B, Q, T - 1, V)`, and the
contexts' losses before the last write step `(B,)`."""


@dataclass(frozen=True)
class Plan:
    """What to time."""

    sizes: Sequence[int]
    "Context sizes."
    write_steps: int
    "Write steps (K)."
    rounds: int
    "Steps that are timed of each implementation."
    threads: int
    "CPU threads."
    seed: int
    "Seed of the weights and the data, in place of the recipe's."


def straightforward(model: MemoryModel, batch: Batch, steps: int) -> tuple[Tensor, Tensor]:
    """The method as one would first write it: nothing packed, torch's own differentiation."""
    size = model.config.memory_tokens
    start = model.initial_memory.expand(len(batch.context_ids), -1, -1)  # (B, m, d)
    memory, losses = unrolled_steps(model, start, batch.context_ids, batch.lengths, steps)
    with sdpa_kernel(SDPBackend.MATH):
        query_ids = batch.query_ids.flatten(0, 1)  # (B * Q, T)
        prefix = model.prefix(memory).repeat_interleave(batch.query_ids.shape[1], dim=0)
        inputs = torch.cat([prefix, model.backbone.embed(query_ids)], dim=1)
        answers = model.backbone.logits(model.backbone.hidden(inputs)[:, size:-1])
    answers = answers.view(*batch.query_ids.shape[:2], *answers.shape[1:])  # (B, Q, T - 1, V)
    return answers, losses


def kept(model: MemoryModel, batch: Batch, steps: int) -> tuple[Tensor, Tensor]:
    """Ours, as training does it."""
    return _ours(GradMem(model), batch, steps)


def recomputed(model: MemoryModel, batch: Batch, steps: int) -> tuple[Tensor, Tensor]:
    """Ours, with write steps and READ's blocks computed again in place of kept."""
    return _ours(GradMem(model, recompute=True), batch, steps)


def _ours(writer: GradMem, batch: Batch, steps: int) -> tuple[Tensor, Tensor]:
    state = writer.write(batch.context_ids, batch.lengths, steps, train=True)
    assert state.write_loss is not None
    return writer.read(state, batch.query_ids)[:, :, :-1], state.write_loss


IMPLEMENTATIONS: dict[str, Implementation] = {
    "straightforward": straightforward,
    "gradmem": kept,
    "gradmem, recompute": recomputed,
}
"By name; the first is what the others are held against."


def step_times(recipe: Recipe, plan: Plan, *, command: str) -> StepTime:
    """Time whole training steps (WRITE, READ, backward) of every implementation, in turn.

    The model is the recipe's with fresh weights, a batch its micro-batch. Peak memory is the most
    that a step has allocated at once beyond the model, gradients included, as torch's profiler
    counts tensors.

    Raises:
        InputError: The recipe's writer is not GradMem, or it clips the inner gradient.
        ContextTooLongError: A size is beyond the memory's limits.
        WriteStepsError: So are the write steps.
        ArithmeticError: An implementation's gradient differs by more than TOLERANCE.
    """
    started = time.perf_counter()
    torch.set_num_threads(plan.threads)
    model = _fresh(recipe, plan.seed)
    rows: list[StepTimeRow] = []
    for size in plan.sizes:
        batch = _batch(recipe, size, plan.seed)
        steps = {
            name: _step(implementation, model, batch, recipe, plan.write_steps)
            for name, implementation in IMPLEMENTATIONS.items()
        }
        _check_gradients(model, steps)
        memory = {name: _peak_memory(model, step) for name, step in steps.items()}
        seconds = alternate(steps, plan.rounds)
        first = next(iter(seconds.values()))
        for name, taken in seconds.items():
            rows.append(
                StepTimeRow(
                    name=name,
                    size=size,
                    write_steps=plan.write_steps,
                    contexts_per_second=len(batch.lengths) / statistics.median(taken),
                    relative=median_ratio(first, taken),
                    peak_memory_bytes=memory[name],
                )
            )
    about = header(command, seed=plan.seed, started=started)
    return StepTime(**about.model_dump(), rows=tuple(rows))


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


def _batch(recipe: Recipe, size: int, seed: int) -> Batch:
    task = task_by_name(recipe.task)
    examples = [
        task.sample(stream("train", seed, size, row), size=size, queries=recipe.batch.queries)
        for row in range(recipe.batch.micro_batch)
    ]
    return collate(examples, task.format())


def _step(
    implementation: Implementation, model: MemoryModel, batch: Batch, recipe: Recipe, steps: int
) -> Callable[[], None]:
    """A whole training step, up to fresh gradients in the model's parameters."""

    def step() -> None:
        model.zero_grad()
        logits, write_losses = implementation(model, batch, steps)
        labels = batch.labels[:, :, 1:]
        loss = F.cross_entropy(logits.flatten(0, 2), labels.flatten(), ignore_index=IGNORED)
        loss = loss + recipe.write_loss_weight * write_losses.mean()
        loss.backward()  # type: ignore[no-untyped-call]

    return step


def _check_gradients(model: MemoryModel, steps: dict[str, Callable[[], None]]) -> None:
    """Hold every implementation's gradient against the first one's."""
    expected: dict[str, Tensor] = {}
    for implementation, step in steps.items():
        step()
        found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        expected = expected or found
        if found.keys() != expected.keys():
            raise ArithmeticError(f"{implementation}: other parameters have a gradient")
        errors = {
            name: float((gradient - expected[name]).norm() / expected[name].norm())
            for name, gradient in found.items()
        }
        worst = max(errors, key=errors.__getitem__)
        typer.echo(f"{implementation}: gradients differ by at most {errors[worst]:.1e}", err=True)
        if not errors[worst] < TOLERANCE:
            raise ArithmeticError(f"{implementation}: the gradient of {worst} is another")


def _peak_memory(model: MemoryModel, step: Callable[[], None]) -> int:
    """The most bytes of tensors that a step has allocated at once."""
    model.zero_grad()  # or the step would free gradients that it did not allocate
    return peak_bytes(step)


def bench(
    recipe: Annotated[str, typer.Argument(help="A TOML file, or the name of a bundled recipe.")] = (
        "kv-16"
    ),
    pairs: Annotated[str, typer.Option(help="Pairs in a context, for instance 8,16.")] = "8,16,32",
    steps: Annotated[int, typer.Option(min=1, help="Write steps (K).")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Timed steps of each implementation.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the weights and the data.")] = 1,
    output: Annotated[Path | None, typer.Option(help="Result file (JSON) to write.")] = None,
) -> None:
    """Time a training step beside a straightforward unrolled one, and print the result file."""
    try:
        plan = Plan([_number(part) for part in pairs.split(",")], steps, rounds, threads, seed)
        result = step_times(load_recipe(recipe), plan, command=this_command())
        if output:
            save_result(output, result)
    except GradMemError as error:
        fail(error)
    typer.echo(as_json(result), nl=False)


def _number(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise InputError(f"--pairs: {text!r} is not a number from 1")
    return int(text)
