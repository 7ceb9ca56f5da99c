"""The start of a run: a fresh model, or a checkpoint."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from gradmem_core.backbone import Backbone
from gradmem_core.checkpoints.checkpoint import verify_backbone
from gradmem_core.checkpoints.external_backbone import ExternalBackbone
from gradmem_core.checkpoints.manifest import find_checkpoint, read_manifest
from gradmem_core.config import MemoryConfig
from gradmem_core.errors import RecipeError
from gradmem_core.model import MemoryModel
from gradmem_core.tokenizer import Tokenizer
from training.checkpoints.pretrained import start_from_tokens
from training.recipe import Recipe
from training.tasks import TextFormat, TrainingTask, WindowTask, task_by_name, window_task
from training.writers import WRITERS, Limits, Training, Writer, build_writer, load_writer
from training.writers.gradmem import GradMem


@dataclass(frozen=True)
class Subject:
    """The subject of a run without its model: all that drawing contexts takes."""

    task: TrainingTask
    form: TextFormat
    "Turns texts into tokens."
    memory: MemoryConfig | Limits
    "The memory's settings."

    @property
    def memory_tokens(self) -> int:
        """Vectors that stand before a context (m); 0 for a writer without any."""
        return getattr(self.memory, "memory_tokens", 0)


@dataclass(frozen=True)
class Start:
    """A model before training."""

    writer: Writer
    before: Training | None
    "The record of its training so far, where there is one."
    external_backbone: ExternalBackbone | None
    "Where its backbone stands, where its checkpoint names one and the run does not change it."


def load_subject(recipe: Recipe) -> Subject:
    """Find out what a recipe trains on.

    Raises:
        CheckpointError: The checkpoint to start from is missing or damaged.
        RecipeError: There is no such task or source, or it does not go with the recipe.
    """
    if recipe.backbone is not None:
        assert recipe.memory is not None
        task = task_by_name(recipe.task, recipe.data)
        return Subject(task, task.format(), recipe.memory)
    folder = find_checkpoint(_start_of(recipe))
    manifest = read_manifest(folder)
    form = TextFormat(Tokenizer.from_folder(folder), manifest.task)
    if recipe.mixture is None:
        return Subject(task_by_name(recipe.task, recipe.data), form, manifest.memory)
    if recipe.task != WindowTask.name:
        raise RecipeError(
            f"task: a mixture makes the task {WindowTask.name!r}, not {recipe.task!r}"
        )
    task = window_task(
        recipe.mixture.sources,
        form.tokenizer,
        absent=recipe.mixture.absent,
        longest=manifest.memory.max_context_tokens,
        data=recipe.data,
    )
    return Subject(task, form, manifest.memory)


def start(recipe: Recipe, subject: Subject) -> Start:
    """Build the model of a recipe, and set which of its parameters are trained.

    Raises:
        CheckpointError: The checkpoint to start from is missing or damaged.
        RecipeError: It does not fit the recipe.
    """
    begun = _fresh(recipe, subject) if recipe.backbone is not None else _checkpoint(recipe)
    backbone = cast("Backbone", begun.writer.model.backbone)
    backbone.autocast = torch.bfloat16 if recipe.precision == "bfloat16" else None
    begun.writer.model.requires_grad_(True)
    if recipe.train == "write-side":
        cast("MemoryModel", begun.writer.model).train_write_side()
    return begun


def _start_of(recipe: Recipe) -> str:
    if recipe.start is None:
        raise RecipeError(
            "start: this recipe trains a pretrained model; make a checkpoint of one by"
            " `gradmem-train init` and name it (--set start=CHECKPOINT)"
        )
    return recipe.start


def _fresh(recipe: Recipe, subject: Subject) -> Start:
    """Build a model with random weights, or with a checkpoint's where they fit."""
    settings = {**(recipe.backbone or {}), "vocab_size": len(subject.form.tokenizer)}
    backbone = Backbone.from_config(settings, seed=recipe.seed)
    writer = build_writer(recipe.writer, backbone, subject.memory, seed=recipe.seed)
    before = None if recipe.start is None else _take_weights(writer.model, recipe.start)
    return Start(writer, before, None)


def _checkpoint(recipe: Recipe) -> Start:
    """Take a checkpoint: all of it, or its backbone and settings alone."""
    reference = _start_of(recipe)
    folder = find_checkpoint(reference)
    manifest, external = read_manifest(folder), None
    if recipe.train == "write-side" and manifest.backbone is not None:
        external = manifest.backbone.make_absolute(folder)
    if recipe.fresh:
        backbone = Backbone.from_folder(verify_backbone(folder, manifest))
        model = MemoryModel(backbone, manifest.memory, seed=recipe.seed)
        start_from_tokens(model, seed=recipe.seed)
        return Start(WRITERS[recipe.writer](model), None, external)
    loaded = load_writer(reference, merge=False)
    if not isinstance(loaded.writer, GradMem):
        raise RecipeError(f"start: {reference} is a {loaded.writer.kind}, not a GradMem")
    return Start(WRITERS[recipe.writer](loaded.writer.model), loaded.training, external)


def record_of(
    recipe: Recipe, before: Training | None, *, contexts: int, tokens: int, seconds: float
) -> Training:
    """Describe a run, with those that it started from.

    Args:
        recipe: The run's recipe.
        before: The record of what it started from; None where it has none, or nothing was kept.
        contexts: Contexts that the run has written.
        tokens: Their tokens.
        seconds: Its wall-clock time.
    """
    anew = recipe.start is None or recipe.fresh
    return Training(
        recipe=recipe.name,
        writer=recipe.writer,
        seed=recipe.seed,
        write_steps=recipe.extreme_write_steps[1],
        contexts=contexts + (before.contexts if before else 0),
        tokens=tokens + (before.tokens if before else 0),
        seconds=seconds + (before.seconds if before else 0.0),
        sizes=recipe.sizes,
        clean=anew or (before is not None and before.clean),
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
