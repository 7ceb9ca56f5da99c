"""Checkpoints of pretrained models, before any training."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from gradmem_core.backbone import Backbone
from gradmem_core.checkpoints.checkpoint import (
    check_template,
    find_backbone,
    load_checkpoint,
    save_checkpoint,
)
from gradmem_core.checkpoints.fingerprint import digest_backbone
from gradmem_core.checkpoints.manifest import Task, find_checkpoint, read_manifest
from gradmem_core.config import MemoryConfig
from gradmem_core.errors import CheckpointError, InputError
from gradmem_core.model import MemoryModel
from gradmem_core.tokenizer import Tokenizer
from training.problems import describe_problem
from training.recipes.overrides import set_field
from training.tasks import find_card
from training.writers.files import TRAINING, Training, load_training
from training.writers.gradmem import GradMem

MEMORY: dict[str, Any] = {
    "memory_tokens": 32,
    "write_steps": 5,
    "inner_learning_rate": 1.0,
    "inner_learning_rate_per_element": True,
    "inner_gradient_clip": 0.1,
    "write_head": False,
    "memory_projection": True,
    "max_context_tokens": 256,
    "max_query_tokens": 96,
    "max_answer_tokens": 64,
}
"Fields of `MemoryConfig` for pretrained models; those that are left out have its own defaults."
ADAPTER = {"phases": "write"}
"The same of `AdapterConfig`, where there are adapters."

CARD = """# {name}

A GradMem checkpoint on `{backbone}`, not trained on its task yet, to start meta-training from:
`gradmem-train fit RECIPE --set start=THIS`. Its memories hold little before that.

- Task: `{task}`; {vectors} memory vectors, at first {origin}.
- Licence: that of the backbone.
"""

UNTRAINED = Training(
    recipe="init",
    writer=GradMem.kind,
    seed=0,
    write_steps=0,
    contexts=0,
    tokens=0,
    seconds=0.0,
    sizes=[],
)
"The record of a checkpoint that is made here."


@dataclass(frozen=True)
class Origin:
    """The model and the task that a checkpoint is made for."""

    backbone: Path
    "A Hugging Face folder with the model and its tokenizer."
    task: str
    "Name of the task that it will be trained on."
    query_template: str | None = None
    "Text around a query; `chat` for the tokenizer's own template, None for the task's."
    layers: int | None = None
    "Keep the first blocks alone; None keeps all."
    inside: bool = False
    "Store the backbone inside the checkpoint in place of naming its folder."
    write_side: Path | None = None
    "A checkpoint on this backbone, trained on another task, whose M0 and write side to take."


def build_memory_config(overrides: Sequence[str] = ()) -> MemoryConfig:
    """Return the memory's settings for a pretrained model: MEMORY with overrides.

    Args:
        overrides: `field=value` of `MemoryConfig`, for instance `adapter.rank=8`.

    Raises:
        InputError: A field is unknown, of a wrong type or out of range.
    """
    fields = deepcopy(MEMORY)
    for override in overrides:
        set_field(fields, override)
    if isinstance(fields.get("adapter"), dict):
        fields["adapter"] = ADAPTER | fields["adapter"]
    try:
        return MemoryConfig.model_validate(fields)
    except ValidationError as error:
        problems = "; ".join(describe_problem(entry) for entry in error.errors())
        raise InputError(
            f"{problems} (a memory has the fields {', '.join(MemoryConfig.model_fields)})"
        ) from error


def init_checkpoint(folder: Path, origin: Origin, config: MemoryConfig, *, seed: int) -> str:
    """Write a checkpoint of a pretrained model, with M0 of token embeddings drawn at random.

    Args:
        folder: Its folder.
        origin: The model and the task that it is made for.
        config: The memory's settings.
        seed: Seed of the draws.

    Returns:
        The fingerprint.

    Raises:
        CheckpointError: The backbone or its tokenizer is missing or damaged, of another
            architecture, or too short for the configuration; the template leaves no room; or the
            write side is one of another backbone or of other sizes.
        RecipeError: There is no such task.
    """
    card, tokenizer = find_card(origin.task), Tokenizer.from_folder(origin.backbone)
    template = _choose_template(origin, tokenizer, card)
    check_template(tokenizer, template, config)
    model = MemoryModel(_load_backbone(origin, tokenizer), config, seed=seed)
    before: Training | None = UNTRAINED
    if origin.write_side is None:
        start_from_tokens(model, seed=seed)
    else:
        _take_write_side(model, origin.write_side, digest_backbone(origin.backbone))
        before = load_training(origin.write_side)  # training from here on adds to it
    fields = {
        "query_template": template,
        "stop_tokens": [tokenizer.find_last_token(text) for text in card.stop_tokens],
    }
    external = not origin.inside and origin.layers is None
    return save_checkpoint(
        folder,
        name=folder.name,
        model=model,
        tokenizer=tokenizer,
        task=card.model_copy(update=fields),
        card=_write_card(folder.name, origin, config, seed=seed),
        external_backbone=str(origin.backbone.resolve()) if external else None,
        notes=None if before is None else {TRAINING: before.model_dump_json(indent=2) + "\n"},
    )


@torch.no_grad()
def start_from_tokens(model: MemoryModel, *, seed: int) -> None:
    """Set M0 to embeddings of random tokens, which the backbone can read."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(
        model.backbone.vocabulary_size, (1, model.config.memory_tokens), generator=generator
    )
    model.initial_memory.copy_(model.backbone.embed(ids)[0])


def _choose_template(origin: Origin, tokenizer: Tokenizer, card: Task) -> str:
    template = origin.query_template or card.query_template
    if template != "chat":
        return template
    if tokenizer.chat_template is None:
        raise CheckpointError(f"the tokenizer in {origin.backbone} has no chat template")
    return tokenizer.chat_template


def _load_backbone(origin: Origin, tokenizer: Tokenizer) -> Backbone:
    backbone = Backbone.from_pretrained(origin.backbone)
    if len(tokenizer) > backbone.vocabulary_size:
        raise CheckpointError(
            f"the tokenizer in {origin.backbone} has {len(tokenizer)} tokens and the model"
            f" {backbone.vocabulary_size}: they do not belong together"
        )
    return backbone if origin.layers is None else backbone.copy_first_layers(origin.layers)


def _write_card(name: str, origin: Origin, config: MemoryConfig, *, seed: int) -> str:
    source = f"embeddings of tokens drawn with seed {seed}"
    if origin.write_side is not None:
        source = f"those of `{origin.write_side.name}`, with its write side"
    return CARD.format(
        name=name,
        backbone=origin.backbone.resolve().name,
        task=origin.task,
        vectors=config.memory_tokens,
        origin=source,
    )


def _take_write_side(model: MemoryModel, reference: Path, digest: str) -> None:
    """Copy the M0 and the write side of a checkpoint on the same backbone into a model.

    Args:
        model: The model.
        reference: The checkpoint's folder.
        digest: Digest of the model's backbone.
    """
    folder = find_checkpoint(reference)
    if digest_backbone(find_backbone(folder, read_manifest(folder))) != digest:
        raise CheckpointError(
            f"the write side of {reference} was trained on another backbone; give one that was"
            " trained on this one, frozen"
        )
    theirs, ours = load_checkpoint(reference, merge=False).model.write_side(), model.write_side()
    for name in sorted(theirs.keys() | ours.keys()):
        shapes = [list(side[name].shape) if name in side else "none" for side in (theirs, ours)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(
                f"the write side of {reference} has {name} {shapes[0]}, and the settings ask for"
                f" {shapes[1]}; make them alike"
            )
    model.load_state_dict(theirs, strict=False)  # the backbone is there already
