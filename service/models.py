"""The checkpoints that the service has loaded, and what each is for."""

from collections.abc import Sequence

import torch

from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from gradmem_core.checkpoints.manifest import Task, find_checkpoint, list_bundled, read_manifest
from gradmem_core.errors import CheckpointError, ModelNotFoundError
from service.schemas import ModelCard
from service.settings import Precision

AUTOCAST: dict[Precision, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}


class Models:
    """Loaded checkpoints by name; the first is the default.

    Raises:
        CheckpointError: Two of them have the same name.
    """

    def __init__(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._by_name = {checkpoint.name: checkpoint for checkpoint in checkpoints}
        if len(self._by_name) != len(checkpoints):
            raise CheckpointError("two checkpoints have the same name; serve one of them")

    @classmethod
    def load(
        cls, references: Sequence[str], *, device: str, precision: Precision = "float32"
    ) -> "Models":
        """Load checkpoints from folders or by the names of bundled ones.

        Args:
            references: Folders or names.
            device: Where they run, as torch names it.
            precision: What the transformers' matrix products are computed in.

        Raises:
            CheckpointError: One of them cannot be loaded.
        """
        checkpoints = [load_checkpoint(reference, device=device) for reference in references]
        for checkpoint in checkpoints:
            checkpoint.model.backbone.autocast = AUTOCAST[precision]
        return cls(checkpoints)

    def get(self, name: str | None) -> Checkpoint:
        """The checkpoint of that name, or the default one.

        Raises:
            ModelNotFoundError: None has that name.
        """
        if name is None:
            return self.all()[0]
        if name not in self._by_name:
            raise ModelNotFoundError(
                f"no such model is served; the names are {', '.join(self._by_name)}"
            )
        return self._by_name[name]

    def all(self) -> list[Checkpoint]:
        """Every checkpoint, the default first."""
        return list(self._by_name.values())


def card_of(name: str, task: Task) -> ModelCard:
    """Say what a checkpoint is for."""
    return ModelCard(
        name=name,
        purpose=task.purpose,
        document_format=task.document_format,
        example_document=task.example_document,
        example_query=task.example_query,
        example_answer=task.example_answer,
    )


def bundled_cards() -> list[ModelCard]:
    """Say what the bundled checkpoints are for, without loading them.

    Raises:
        CheckpointError: One of them is damaged.
    """
    manifests = [read_manifest(find_checkpoint(name)) for name in list_bundled()]
    return [card_of(manifest.name, manifest.task) for manifest in manifests]
