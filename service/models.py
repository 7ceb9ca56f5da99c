"""The checkpoints that a service has loaded, and the cards of the bundled ones."""

from collections.abc import Sequence

import torch

from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from gradmem_core.checkpoints.manifest import find_checkpoint, list_bundled, read_manifest
from gradmem_core.errors import CheckpointError, ModelNotFoundError
from service.descriptions import describe_task
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
            raise CheckpointError("two checkpoints have the same name; serve only one of them")

    @classmethod
    def load(
        cls, references: Sequence[str], *, device: str, precision: Precision = "float32"
    ) -> "Models":
        """Load checkpoints from folders or by the names of bundled ones.

        Args:
            references: Folders or names.
            device: The device to load them on, as torch names it.
            precision: The precision of the transformers' matrix products.

        Raises:
            CheckpointError: A checkpoint cannot be loaded.
        """
        checkpoints = [load_checkpoint(reference, device=device) for reference in references]
        for checkpoint in checkpoints:
            checkpoint.model.backbone.autocast = AUTOCAST[precision]
        return cls(checkpoints)

    def get(self, name: str | None) -> Checkpoint:
        """Return the checkpoint of that name, or the default for None.

        Raises:
            ModelNotFoundError: No checkpoint has that name.
        """
        if name is None:
            return self.all()[0]
        if name not in self._by_name:
            raise ModelNotFoundError(
                f"no model of that name is served; choose from {', '.join(self._by_name)}"
            )
        return self._by_name[name]

    def all(self) -> list[Checkpoint]:
        """Return every checkpoint, the default first."""
        return list(self._by_name.values())


def bundled_cards() -> list[ModelCard]:
    """Describe the bundled checkpoints without loading them.

    Raises:
        CheckpointError: One of them is damaged.
    """
    manifests = [read_manifest(find_checkpoint(name)) for name in list_bundled()]
    return [describe_task(manifest.name, manifest.task) for manifest in manifests]
