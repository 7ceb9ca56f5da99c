"""The model before training: fresh, or from a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from gradmem_core.backbone import Backbone
from gradmem_core.checkpoints.checkpoint import verify_backbone
from gradmem_core.checkpoints.external_backbone import ExternalBackbone
from gradmem_core.checkpoints.manifest import find_checkpoint, read_manifest
from gradmem_core.errors import RecipeError
from gradmem_core.model import MemoryModel
from training.checkpoints.pretrained import start_from_tokens
from training.loop.data import TrainingData, require_start
from training.recipes.schema import Recipe
from training.writers import WRITERS, Training, Writer, build_writer, load_writer
from training.writers.gradmem import GradMem


@dataclass(frozen=True)
class InitialModel:
    """A model before training, with its history."""

    writer: Writer
    "The model with its way of writing and reading."
    before: Training | None
    "The record of its training so far, if it is known."
    external_backbone: ExternalBackbone | None
    "Place of its backbone, if its checkpoint names one and the run does not change it."


def build_initial_model(recipe: Recipe, data: TrainingData) -> InitialModel:
    """Build the model of a recipe, and set which of its parameters are trained.

    Raises:
        CheckpointError: The checkpoint to start from is missing or damaged.
        RecipeError: It does not fit the recipe.
    """
    if recipe.backbone is None:
        initial = _take_checkpoint(recipe)
    else:
        writer = build_fresh_writer(recipe, data)
        initial = InitialModel(writer, _take_weights(writer, recipe.start), None)
    model = initial.writer.model
    backbone = cast("Backbone", model.backbone)
    backbone.autocast = torch.bfloat16 if recipe.precision == "bfloat16" else None
    model.requires_grad_(True)
    if recipe.train == "write-side":
        cast("MemoryModel", model).train_write_side()
    return initial


def build_fresh_writer(recipe: Recipe, data: TrainingData) -> Writer:
    """Build the model of a recipe that gives its backbone, with random weights."""
    settings = {**(recipe.backbone or {}), "vocab_size": len(data.form.tokenizer)}
    backbone = Backbone.from_config(settings, seed=recipe.seed)
    return build_writer(recipe.writer, backbone, data.memory, seed=recipe.seed)


def check_shapes(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], origin: str) -> None:
    """Refuse weights that a model cannot take; it may have more of its own.

    Raises:
        RecipeError: The model lacks one of the weights, or has it in another shape.
    """
    for name, tensor in theirs.items():
        if name not in ours or ours[name].shape != tensor.shape:
            shape = list(ours[name].shape) if name in ours else "no such weight"
            raise RecipeError(
                f"start: {name} of {origin} is {list(tensor.shape)}, this recipe has {shape}"
            )


def _take_weights(writer: Writer, reference: str | None) -> Training | None:
    """Copy a checkpoint's weights into a model of the same sizes; return its training record."""
    if reference is None:
        return None
    loaded = load_writer(reference)
    weights = loaded.writer.model.state_dict()
    check_shapes(weights, writer.model.state_dict(), reference)
    writer.model.load_state_dict(weights, strict=False)
    return loaded.training


def _take_checkpoint(recipe: Recipe) -> InitialModel:
    """Take a checkpoint: all of it, or its backbone and settings alone."""
    reference = require_start(recipe)
    folder = find_checkpoint(reference)
    manifest, external = read_manifest(folder), None
    if recipe.train == "write-side" and manifest.backbone is not None:
        external = manifest.backbone.make_absolute(folder)
    if recipe.fresh:
        backbone = Backbone.from_folder(verify_backbone(folder, manifest))
        model = MemoryModel(backbone, manifest.memory, seed=recipe.seed)
        start_from_tokens(model, seed=recipe.seed)
        return InitialModel(WRITERS[recipe.writer](model), None, external)
    loaded = load_writer(reference, merge=False)
    if not isinstance(loaded.writer, GradMem):
        raise RecipeError(f"start: {reference} is a {loaded.writer.kind}, not a GradMem")
    return InitialModel(WRITERS[recipe.writer](loaded.writer.model), loaded.training, external)
