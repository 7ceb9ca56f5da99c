"""Checkpoints of pretrained models, before any training."""

from dataclasses import dataclass
from pathlib import Path

import torch

from gradmem_core.backbone import Backbone
from gradmem_core.checkpoint import check_template, save_checkpoint
from gradmem_core.config import MemoryConfig
from gradmem_core.errors import CheckpointError
from gradmem_core.model import MemoryModel
from gradmem_core.tokenizer import Tokenizer
from training.tasks import card_by_name

CARD = """# {name}

An untrained GradMem checkpoint on `{backbone}`, to start meta-training from: `gradmem-train fit
RECIPE --set start=THIS`. Its memories hold little before that.

- Task: `{task}`; {vectors} memory vectors, at first embeddings of tokens drawn with seed {seed}.
- Licence: that of the backbone.
"""


@dataclass(frozen=True)
class Origin:
    """What a checkpoint is made of."""

    backbone: Path
    "A Hugging Face folder with the model and its tokenizer."
    task: str
    "Name of the task that it will be trained on."
    query_template: str | None = None
    "What stands around a query; `chat` for the tokenizer's own template, None for the task's."
    layers: int | None = None
    "Keep the first blocks alone; None keeps all."
    inside: bool = False
    "Store the backbone inside the checkpoint in place of naming its folder."


def init_checkpoint(folder: Path, origin: Origin, config: MemoryConfig, *, seed: int) -> str:
    """Write a checkpoint of a pretrained model, with M0 of token embeddings drawn at random.

    Args:
        folder: Where it goes.
        origin: What it is made of.
        config: What a memory is.
        seed: Seed of the draws.

    Returns:
        The fingerprint.

    Raises:
        CheckpointError: The backbone or its tokenizer is missing or damaged, of another
            architecture, or too short for the configuration; or the template leaves no room.
        RecipeError: There is no such task.
    """
    card = card_by_name(origin.task)
    tokenizer = Tokenizer.from_folder(origin.backbone)
    template = origin.query_template or card.query_template
    if template == "chat":
        if tokenizer.chat_template is None:
            raise CheckpointError(f"the tokenizer in {origin.backbone} has no chat template")
        template = tokenizer.chat_template
    check_template(tokenizer, template, config)
    backbone = Backbone.pretrained(origin.backbone)
    if len(tokenizer) > backbone.vocabulary_size:
        raise CheckpointError(
            f"the tokenizer in {origin.backbone} has {len(tokenizer)} tokens and the model"
            f" {backbone.vocabulary_size}: they do not belong together"
        )
    if origin.layers is not None:
        backbone = backbone.first_layers(origin.layers)
    model = MemoryModel(backbone, config, seed=seed)
    _start_from_tokens(model, seed=seed)
    fields = {
        "query_template": template,
        "stop_tokens": [tokenizer.token_ending(text) for text in card.stop_tokens],
    }
    external = not origin.inside and origin.layers is None
    return save_checkpoint(
        folder,
        name=folder.name,
        model=model,
        tokenizer=tokenizer,
        task=card.model_copy(update=fields),
        card=CARD.format(
            name=folder.name,
            backbone=origin.backbone.resolve().name,
            task=origin.task,
            vectors=config.memory_tokens,
            seed=seed,
        ),
        external_backbone=str(origin.backbone.resolve()) if external else None,
    )


@torch.no_grad()
def _start_from_tokens(model: MemoryModel, *, seed: int) -> None:
    """Take embeddings of tokens, which the backbone knows how to read, as M0."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(
        model.backbone.vocabulary_size, (1, model.config.memory_tokens), generator=generator
    )
    model.initial_memory.copy_(model.backbone.embed(ids)[0])
