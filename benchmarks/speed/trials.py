"""Models with batches to time training steps on: a recipe's, or a checkpoint's."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.results import Subject, subject_of
from gradmem_core.backbone import Backbone
from gradmem_core.checkpoints.checkpoint import load_checkpoint
from gradmem_core.config import MemoryConfig
from gradmem_core.errors import InputError, RecipeError
from gradmem_core.model import MemoryModel
from training.loop.batch import IGNORED, Batch, collate
from training.recipes.schema import Recipe
from training.seeds import stream
from training.tasks import build_task

TOLERANCE = 1e-5
"Largest distance of a parameter's gradient from the first implementation's, relative."
TOLERANCE_OF_CHECKPOINTS = {torch.float32: 1e-2, torch.bfloat16: math.inf}
"The same where trained inner rates amplify what rounding differs by; finite at least."
WRITE_LOSS_WEIGHT = 0.1
"Of a checkpoint, whose recipe is not asked for."


@dataclass(frozen=True)
class Trial:
    """A model with its batches."""

    model: MemoryModel
    batch: Callable[[int], Batch]
    "Makes a batch of contexts of a size: in the recipe's unit, or in tokens."
    write_loss_weight: float
    tolerance: float
    "Most that gradients may differ by."
    subject: Subject | None = None
    "The checkpoint, if it is of one."


def recipe_trial(recipe: Recipe, *, seed: int, device: torch.device) -> Trial:
    """Build a recipe's model with fresh weights, and its micro-batches.

    Args:
        recipe: A recipe of a GradMem from scratch.
        seed: Seed of the weights and the data, in place of the recipe's.
        device: Device of the model.

    Raises:
        InputError: The recipe's writer is not GradMem, or it clips the inner gradient.
        RecipeError: The recipe lacks a backbone, or the size of its micro-batches.
    """
    config, task, count = recipe.memory, build_task(recipe.task), recipe.batch.micro_batch
    if recipe.writer != "gradmem" or not isinstance(config, MemoryConfig):
        raise InputError(f"{recipe.name}: the writer is {recipe.writer}; take a recipe of gradmem")
    if config.inner_gradient_clip is not None:
        raise InputError(f"{recipe.name}: leave out memory.inner_gradient_clip")
    if recipe.backbone is None:
        raise RecipeError("backbone: the recipe has none to build a model of")
    if count is None:
        raise RecipeError("batch.micro_batch: the recipe does not set it")
    settings = {**recipe.backbone, "vocab_size": len(task.tokenizer())}
    model = MemoryModel(Backbone.from_config(settings, seed=seed), config, seed=seed).to(device)

    def batch(size: int) -> Batch:
        examples = [
            task.sample(stream("train", seed, size, row), size=size, queries=recipe.batch.queries)
            for row in range(count)
        ]
        return collate(examples, task.format(), device=device)

    return Trial(model, batch, recipe.write_loss_weight, TOLERANCE)


def checkpoint_trial(
    reference: str,
    dtype: torch.dtype,
    *,
    shape: tuple[int, int, int],
    seed: int,
    device: torch.device,
) -> Trial:
    """Load a checkpoint to train with a frozen backbone, on batches of random tokens.

    Args:
        reference: Folder, or name of a bundled checkpoint.
        dtype: Dtype that the backbone computes in.
        shape: Contexts of a batch, questions of each, and tokens of each question with its answer,
            whose last third is the answer.
        seed: Seed of the tokens.
        device: Device of the model.

    Raises:
        CheckpointError: It cannot be loaded.
    """
    checkpoint = load_checkpoint(reference, device=str(device), merge=False)
    model = checkpoint.model
    model.train_write_side()

    def batch(size: int) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        draw = partial(torch.randint, model.backbone.vocabulary_size, generator=generator)
        query_ids, context_ids = draw(shape).to(device), draw((shape[0], size)).to(device)
        places = torch.arange(shape[2], device=device)
        labels = query_ids.where(places >= 2 * shape[2] // 3, IGNORED)
        return Batch(context_ids, torch.full(shape[:1], size, device=device), query_ids, labels)

    tolerance = TOLERANCE_OF_CHECKPOINTS[dtype]
    return Trial(model, batch, WRITE_LOSS_WEIGHT, tolerance, subject_of(checkpoint))
