"""What a run starts from: a fresh model, or a checkpoint."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from gradmem_core.backbone import Backbone
from gradmem_core.backbones import ExternalBackbone
from gradmem_core.checkpoint import find_checkpoint, read_manifest
from gradmem_core.errors import RecipeError
from gradmem_core.model import MemoryModel
from training.recipe import Recipe
from training.tasks import TextFormat, TrainingTask
from training.writers import WRITERS, Training, Writer, build_writer, load_writer
from training.writers.gradmem import GradMem


@dataclass(frozen=True)
class Start:
    """A model before training."""

    writer: Writer
    form: TextFormat
    "How it takes texts."
    before: Training | None
    "How it came about, where it was trained before."
    external_backbone: ExternalBackbone | None
    "Where its backbone stands, where its checkpoint names one and the run does not change it."


def start(recipe: Recipe, task: TrainingTask) -> Start:
    """Build the model of a recipe, and set which of its parameters are trained.

    Raises:
        CheckpointError: The checkpoint to start from is missing or damaged.
        RecipeError: It does not fit the recipe, or the task has no vocabulary of its own and the
            recipe names no checkpoint.
    """
    begun = _fresh(recipe, task) if recipe.backbone is not None else _checkpoint(recipe)
    backbone = cast("Backbone", begun.writer.model.backbone)
    backbone.autocast = torch.bfloat16 if recipe.precision == "bfloat16" else None
    begun.writer.model.requires_grad_(True)
    if recipe.train == "write-side":
        cast("MemoryModel", begun.writer.model).train_write_side()
    return begun


def _fresh(recipe: Recipe, task: TrainingTask) -> Start:
    """A model with random weights, or a checkpoint's where they fit."""
    assert recipe.backbone is not None
    assert recipe.memory is not None
    form = task.format()
    settings = {**recipe.backbone, "vocab_size": len(form.tokenizer)}
    backbone = Backbone.from_config(settings, seed=recipe.seed)
    writer = build_writer(recipe.writer, backbone, recipe.memory, seed=recipe.seed)
    before = None if recipe.start is None else _take_weights(writer.model, recipe.start)
    return Start(writer, form, before, None)


def _checkpoint(recipe: Recipe) -> Start:
    """All of a checkpoint, as `gradmem-train init` makes them of pretrained models."""
    if recipe.start is None:
        raise RecipeError(
            "start: this recipe trains a pretrained model; make a checkpoint of one by"
            " `gradmem-train init` and name it (--set start=CHECKPOINT)"
        )
    loaded = load_writer(recipe.start, merge=False)
    if not isinstance(loaded.writer, GradMem):
        raise RecipeError(f"start: {recipe.start} is a {loaded.writer.kind}, not a GradMem")
    folder = find_checkpoint(recipe.start)
    manifest, external = read_manifest(folder), None
    if recipe.train == "write-side" and manifest.backbone is not None:
        external = manifest.backbone.seen_from(folder)
    return Start(
        WRITERS[recipe.writer](loaded.writer.model), loaded.form, loaded.training, external
    )


def _take_weights(model: nn.Module, reference: str) -> Training | None:
    """Take a checkpoint's weights over into a model of the same sizes.

    Returns:
        How they were trained, where that is known.
    """
    loaded = load_writer(reference)
    weights = loaded.writer.model.state_dict()
    ours = model.state_dict()
    for name, tensor in weights.items():
        if name not in ours or ours[name].shape != tensor.shape:
            has = list(ours[name].shape) if name in ours else "no such weight"
            raise RecipeError(
                f"start: {name} of {reference} is {list(tensor.shape)}, this recipe has {has}"
            )
    model.load_state_dict(weights, strict=False)
    return loaded.training
