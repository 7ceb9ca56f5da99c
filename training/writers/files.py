"""Trained writers on disk.

A GradMem is a checkpoint, which the service loads. A baseline is a folder with the backbone,
`writer.safetensors` and `writer.json`, to be measured.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gradmem_core.backbone import Backbone
from gradmem_core.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from gradmem_core.checkpoints.external_backbone import ExternalBackbone
from gradmem_core.checkpoints.fingerprint import digest_backbone
from gradmem_core.checkpoints.folders import atomic_folder
from gradmem_core.checkpoints.manifest import Task, find_checkpoint
from gradmem_core.errors import CheckpointError
from gradmem_core.tokenizer import Tokenizer
from training.tasks import TextFormat
from training.writers.base import Writer
from training.writers.build import CONFIGS, WRITERS, build_writer
from training.writers.gradmem import GradMem

TRAINING = "training.json"
WRITER = "writer.json"
TENSORS = "writer.safetensors"
BACKBONE = "backbone."
"Prefix of the backbone's tensors, which are saved in a folder of their own."


class Training(BaseModel):
    """The record of a writer's training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    "Name of the recipe."
    writer: str
    "Kind of the writer."
    seed: int
    "Seed of the run."
    write_steps: int
    "Write steps (K) in training."
    contexts: int
    "Contexts written, in all runs that led here."
    tokens: int
    "Their tokens."
    seconds: float
    "Wall-clock time."
    sizes: list[int]
    "Context sizes of the curriculum, or windows of the mixture."
    clean: bool = True
    "No run that led here can have trained on the selection split."


@dataclass(frozen=True)
class LoadedWriter:
    """A trained writer with its tokenizer and its record."""

    name: str
    fingerprint: str
    writer: Writer
    form: TextFormat
    training: Training | None


def save_writer(
    folder: Path,
    writer: Writer,
    *,
    name: str,
    form: TextFormat,
    training: Training,
    card: str,
    external_backbone: ExternalBackbone | None = None,
    adapter_dtype: torch.dtype = torch.float32,
) -> str:
    """Write the folder of a trained writer, and return its fingerprint.

    Args:
        folder: The folder, which is replaced as a whole.
        writer: The writer.
        name: Its name.
        form: Its tokenizer and task.
        training: The record of its training.
        card: The model card, Markdown.
        external_backbone: See `save_checkpoint`; for a GradMem only.
        adapter_dtype: See `save_checkpoint`; for a GradMem only.
    """
    if isinstance(writer, GradMem):
        return save_checkpoint(
            folder,
            name=name,
            model=writer.model,
            tokenizer=form.tokenizer,
            task=form.card,
            card=card,
            external_backbone=external_backbone,
            adapter_dtype=adapter_dtype,
            notes={TRAINING: training.model_dump_json(indent=2) + "\n"},
        )
    model = writer.model
    backbone = cast("Backbone", model.backbone)
    tensors = {
        key: value.detach().contiguous()
        for key, value in model.state_dict().items()
        if not key.startswith(BACKBONE)
    }
    memory = writer.config.model_dump(mode="json")
    task = form.card.model_dump(mode="json")
    described = {"name": name, "writer": writer.kind, "task": task, "memory": memory}
    with atomic_folder(folder) as made:
        form.tokenizer.save(made)
        backbone.save(made / "backbone")
        save_file(tensors, made / TENSORS)
        (made / WRITER).write_text(json.dumps(described, indent=2) + "\n")
        (made / TRAINING).write_text(training.model_dump_json(indent=2) + "\n")
        (made / "README.md").write_text(card)
    return _fingerprint(folder)


def load_writer(reference: str | Path, *, merge: bool = True) -> LoadedWriter:
    """Load what `save_writer` wrote, or any checkpoint by folder or bundled name.

    Args:
        reference: Folder or name.
        merge: See `load_checkpoint`.

    Raises:
        CheckpointError: It is missing, damaged, or does not fit together.
    """
    if (Path(reference) / WRITER).is_file():
        return _load_baseline(Path(reference))
    checkpoint = load_checkpoint(reference, merge=merge)
    training = load_training(reference)
    return LoadedWriter(
        name=checkpoint.name,
        fingerprint=checkpoint.fingerprint,
        writer=WRITERS[GradMem.kind if training is None else training.writer](checkpoint.model),
        form=TextFormat(checkpoint.tokenizer, checkpoint.task),
        training=training,
    )


def load_training(reference: str | Path) -> Training | None:
    """Load the record of a checkpoint's training; None where it has none.

    Raises:
        CheckpointError: There is no such checkpoint, or its record is damaged.
    """
    return _read_training(find_checkpoint(reference))


def _load_baseline(folder: Path) -> LoadedWriter:
    try:
        described = json.loads((folder / WRITER).read_text())
        kind, memory = described["writer"], described["memory"]
        config = CONFIGS[kind].model_validate(memory)
        backbone = Backbone.from_folder(folder / "backbone")
        writer = build_writer(kind, backbone, config, seed=0)
        tensors = load_file(folder / TENSORS)
        form = TextFormat(Tokenizer.from_folder(folder), Task.model_validate(described["task"]))
        left_over = writer.model.load_state_dict(tensors, strict=False)
        missing = [key for key in left_over.missing_keys if not key.startswith(BACKBONE)]
        if missing or left_over.unexpected_keys:
            raise ValueError(f"tensors differ in {missing + left_over.unexpected_keys}")
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"the writer in {folder} cannot be loaded: {error}") from error
    writer.model.requires_grad_(False).eval()
    return LoadedWriter(
        name=described["name"],
        fingerprint=_fingerprint(folder),
        writer=writer,
        form=form,
        training=_read_training(folder),
    )


def _read_training(folder: Path) -> Training | None:
    path = folder / TRAINING
    if not path.exists():
        return None
    try:
        return Training.model_validate_json(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _fingerprint(folder: Path) -> str:
    """Compute the SHA-256 of a baseline's settings and tensors."""
    digest = hashlib.sha256((folder / WRITER).read_bytes())
    digest.update((folder / TENSORS).read_bytes())
    digest.update(digest_backbone(folder / "backbone").encode())
    return digest.hexdigest()
