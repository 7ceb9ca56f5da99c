"""Checks of recipes before any compute."""

from collections.abc import Sequence
from itertools import pairwise

from gradmem_core.errors import RecipeError
from training.loop.data import TrainingData, load_training_data
from training.loop.initial_model import build_fresh_writer, check_shapes
from training.recipes.schema import Recipe
from training.seeds import stream


def check_recipe(recipe: Recipe, data: TrainingData, *, processes: int) -> None:
    """Refuse a recipe that would fail during the run.

    Args:
        recipe: The recipe.
        data: Its data.
        processes: Number of processes that train it together.

    Raises:
        RecipeError: Contexts, write steps or answers do not suit the memory, or the processes
            cannot share the batch.
    """
    _check_lengths(recipe, data)
    recipe.check_steps(getattr(data.memory, "max_write_steps", 1))
    for size in sorted({*recipe.sizes, *recipe.evaluation.sizes}):
        _check_size(recipe, data, size)
    count = recipe.batch.count
    if count % processes:
        raise RecipeError(
            f"batch: {processes} processes cannot share {count} micro-batches evenly; start fewer"
            " processes, or change the batch"
        )


def check_phases(phases: Sequence[Recipe], *, processes: int) -> None:
    """Refuse phases if any would fail when its turn comes.

    Args:
        phases: The phases' recipes, in turn.
        processes: Number of processes that train them together.

    Raises:
        RecipeError: See `check_recipe`; or a phase cannot take the weights of the phase before.
    """
    start = phases[0].start  # its memory and its tokenizer are those of later phases, too
    opened = [
        (recipe, load_training_data(recipe.model_copy(update={"start": start})))
        for recipe in phases
    ]
    for recipe, data in opened:
        check_recipe(recipe, data, processes=processes)
    for (before, before_data), (after, after_data) in pairwise(opened):
        if after.backbone is not None:
            check_shapes(
                build_fresh_writer(before, before_data).model.state_dict(),
                build_fresh_writer(after, after_data).model.state_dict(),
                before.name,
            )


def _check_lengths(recipe: Recipe, data: TrainingData) -> None:
    """Refuse a mixture whose windows are beyond the memory's limit, or a batch without room."""
    most = data.memory.max_context_tokens
    longest = most + data.memory_tokens
    if recipe.batch.tokens is not None and recipe.batch.tokens < longest:
        raise RecipeError(
            f"batch.tokens: a context with its memory takes up to {longest} tokens, more than"
            f" {recipe.batch.tokens}"
        )
    if recipe.mixture and (too_long := [size for size in recipe.sizes if size > most]):
        raise RecipeError(
            f"mixture.windows: {too_long[0]} tokens are more than a context of this checkpoint"
            f" takes, {most}"
        )


def _check_size(recipe: Recipe, data: TrainingData, size: int) -> None:
    """Refuse a size whose contexts are too long, or whose answers end in no stop token."""
    tokenizer, most = data.form.tokenizer, data.memory.max_context_tokens
    example = data.task.sample(stream("train", recipe.seed), size=size, queries=1)
    if tokenizer.encode(example.questions[0].target)[-1] not in data.form.stop_ids:
        raise RecipeError(
            f"task: the answers of {recipe.task} end differently from those of the checkpoint to"
            f" start from, which was made for {data.form.card.name}; make one by `gradmem-train"
            f" init --task {recipe.task}`"
        )
    tokens = len(tokenizer.encode(example.context))
    if tokens > most:
        raise RecipeError(
            f"size {size}: a context of {tokens} tokens is longer than memory.max_context_tokens,"
            f" {most}"
        )
