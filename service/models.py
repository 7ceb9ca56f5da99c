"""The checkpoints that a service has loaded, and the cards of the bundled ones."""

from collections.abc import Iterable, Sequence

import torch

from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from gradmem_core.checkpoints.manifest import (
    Manifest,
    find_checkpoint,
    list_bundled,
    read_manifest,
)
from gradmem_core.errors import CheckpointError, FingerprintMismatchError, ModelNotFoundError
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
        self.replace(checkpoints)

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
        return cls(load_checkpoints(references, device=device, precision=precision))

    def replace(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Serve other checkpoints from now on; may be called on any thread.

        Raises:
            CheckpointError: Two of them have the same name.
        """
        by_name = {checkpoint.name: checkpoint for checkpoint in checkpoints}
        if len(by_name) != len(checkpoints):
            raise CheckpointError("two checkpoints have the same name; serve only one of them")
        self._by_name = by_name

    def get(self, name: str | None) -> Checkpoint:
        """Return the checkpoint of that name, or the default for None.

        Raises:
            ModelNotFoundError: No checkpoint has that name.
        """
        by_name = self._by_name
        if name is None:
            return next(iter(by_name.values()))
        if name not in by_name:
            raise ModelNotFoundError(
                f"no model of that name is served; choose from {', '.join(by_name)}"
            )
        return by_name[name]

    def find_writer(self, fingerprint: str, name: str) -> Checkpoint:
        """Return the checkpoint that wrote a memory.

        Args:
            fingerprint: Fingerprint of the checkpoint that wrote it.
            name: Name that the checkpoint had then.

        Raises:
            FingerprintMismatchError: It is not served, or not as it was.
        """
        by_name = self._by_name
        # A copy of another name may have another calibration.
        namesake = [by_name[name]] if name in by_name else []
        for checkpoint in (*namesake, *by_name.values()):
            if checkpoint.fingerprint == fingerprint:
                return checkpoint
        if namesake:
            expected = namesake[0].fingerprint
            change = f"the model {name} has changed since it wrote the memory: it is now {expected}"
        else:
            expected = self.get(None).fingerprint
            change = f"the model {name}, which wrote the memory, is not served any more"
        raise FingerprintMismatchError(
            f"{change}; write the document again, or serve the checkpoint {fingerprint}",
            expected=expected,
            actual=fingerprint,
        )

    def all(self) -> list[Checkpoint]:
        """Return every checkpoint, the default first."""
        return list(self._by_name.values())


def load_checkpoints(
    references: Iterable[str],
    *,
    device: str,
    precision: Precision,
    served: Sequence[Checkpoint] = (),
) -> list[Checkpoint]:
    """Load checkpoints, apart from those that are served already.

    Args:
        references: Folders or names; see `Models.load` for these.
        device: See `Models.load`.
        precision: See `Models.load`.
        served: Checkpoints to take over where their folders have not changed.

    Raises:
        CheckpointError: A checkpoint cannot be loaded.
    """
    return [_load(reference, device, precision, served) for reference in references]


def _load(
    reference: str, device: str, precision: Precision, served: Sequence[Checkpoint]
) -> Checkpoint:
    if served:
        manifest = read_manifest(find_checkpoint(reference))
        for checkpoint in served:
            if _is_of(manifest, checkpoint):
                return checkpoint
    checkpoint = load_checkpoint(reference, device=device)
    checkpoint.model.backbone.autocast = AUTOCAST[precision]
    return checkpoint


def _is_of(manifest: Manifest, checkpoint: Checkpoint) -> bool:
    """Return true if a checkpoint was loaded from a folder with the same manifest."""
    return (
        manifest.name == checkpoint.name
        and manifest.fingerprint == checkpoint.fingerprint
        and manifest.memory == checkpoint.model.config
        and manifest.task == checkpoint.task
        and manifest.calibration == checkpoint.calibration
    )


def bundled_cards() -> list[ModelCard]:
    """Describe the bundled checkpoints without loading them.

    Raises:
        CheckpointError: One of them is damaged.
    """
    manifests = [read_manifest(find_checkpoint(name)) for name in list_bundled()]
    return [describe_task(manifest.name, manifest.task) for manifest in manifests]
