"""Checkpoints: a folder with all that serving needs.

`backbone/` is a plain Hugging Face model folder, the tokenizer stands beside it in the ordinary
files, `gradmem.json` holds the configuration and the fingerprint, `gradmem.safetensors` M0 and the
write side, `adapter/` an adapter as peft stores it, `README.md` the model card.
`docs/FORMATS.md` has the fields.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gradmem_core import adapters
from gradmem_core.backbone import Backbone
from gradmem_core.checkpoints.calibration import Calibration
from gradmem_core.checkpoints.external_backbone import ExternalBackbone, find_external_backbone
from gradmem_core.checkpoints.fingerprint import compute_fingerprint, digest_backbone
from gradmem_core.checkpoints.folders import atomic_folder
from gradmem_core.checkpoints.manifest import (
    FORMAT_VERSION,
    Manifest,
    Task,
    find_checkpoint,
    read_manifest,
)
from gradmem_core.config import MemoryConfig
from gradmem_core.errors import CheckpointError, DeviceError, UnknownCharactersError
from gradmem_core.model import MemoryModel
from gradmem_core.tokenizer import ABSENT, QUERY, QUERY_MARK, Tokenizer


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint, ready to serve: nothing in it requires a gradient."""

    name: str
    fingerprint: str
    model: MemoryModel
    tokenizer: Tokenizer
    task: Task
    stop_ids: list[int]
    calibration: Calibration | None = None

    @cached_property
    def parameters(self) -> int:
        """Parameters of its model."""
        return sum(weight.numel() for weight in self.model.parameters())

    @property
    def min_confidence(self) -> float:
        """The confidence below which an answer counts as not found, unless a caller says else."""
        return 0.0 if self.calibration is None else self.calibration.min_confidence

    @property
    def takes_pages(self) -> bool:
        """Whether its memories have several pages, to which others may be added."""
        return self.task.document_format == "records" or self.model.config.page_tokens is not None

    @cached_property
    def absent_id(self) -> int | None:
        """The token that says that a key is not in memory; None where answers are texts."""
        if self.task.document_format == "text":
            return None
        return self.tokenizer.require_ids([ABSENT])[0]


def save_checkpoint(
    folder: Path,
    *,
    name: str,
    model: MemoryModel,
    tokenizer: Tokenizer,
    task: Task,
    card: str,
    external_backbone: str | ExternalBackbone | None = None,
    calibration: Calibration | None = None,
    adapter_dtype: torch.dtype = torch.float32,
    notes: Mapping[str, str] | None = None,
) -> str:
    """Write a checkpoint folder, all or nothing; an older one at the same place is replaced.

    Args:
        folder: Where the checkpoint goes.
        name: What it is called when served.
        model: Its backbone, M0 and write side.
        tokenizer: Its tokenizer.
        task: What it answers.
        card: The model card, Markdown.
        external_backbone: Name this model folder (absolute, or relative to `folder`), or what
            another checkpoint names, instead of storing the backbone.
        calibration: What its confidence is made of.
        adapter_dtype: How an adapter is stored, float32 or bfloat16.
        notes: Further files by name, which loading leaves alone.

    Returns:
        The fingerprint.

    Raises:
        CheckpointError: The model's adapter was merged into its weights, or the named backbone is
            missing or another one.
    """
    if model.config.adapter is not None and model.backbone.adapter is None:
        raise CheckpointError(
            f"{name!r} cannot be saved: its adapter was merged into the backbone's weights; load it"
            " with merge=False"
        )
    with atomic_folder(folder) as made:
        tokenizer.save(made)
        tensors = {
            key: value.detach().contiguous()
            for key, value in model.write_side().items()
            if not adapters.is_adapter(key)
        }
        save_file(tensors, made / "gradmem.safetensors")
        if model.config.adapter is not None:
            model.backbone.save_adapter(made / adapters.FOLDER, dtype=adapter_dtype)
        external = _named(folder, external_backbone)
        backbone = made / "backbone"
        if external is None:
            model.backbone.save(backbone)
        else:
            backbone = find_external_backbone(folder, external)
            if external.package is not None:  # its weights are imported, see ExternalBackbone
                (made / "backbone").mkdir()
                shutil.copy(backbone / "config.json", made / "backbone")
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            name=name,
            fingerprint=compute_fingerprint(made, _digest(backbone, external), model.config),
            memory=model.config,
            task=task,
            calibration=calibration,
            backbone=external,
        )
        (made / "gradmem.json").write_text(manifest.model_dump_json(indent=2) + "\n")
        for name_of_file, text in {"README.md": card, **(notes or {})}.items():
            (made / name_of_file).write_text(text)
    return manifest.fingerprint


def _named(folder: Path, external: str | ExternalBackbone | None) -> ExternalBackbone | None:
    """Return the manifest's entry of a backbone that stands elsewhere."""
    if not isinstance(external, str):
        return external
    path = (folder / external).resolve()  # `folder` need not exist yet
    return ExternalBackbone(path=external, sha256=digest_backbone(path))


def _digest(backbone: Path, external: ExternalBackbone | None) -> str:
    """Return a backbone's digest; a named one was compared with its own when it was found."""
    return digest_backbone(backbone) if external is None else external.sha256


def check_template(tokenizer: Tokenizer, template: str, config: MemoryConfig) -> None:
    """Refuse a query template that has no place or no room for a query.

    Raises:
        CheckpointError: It holds QUERY not exactly once, has `max_query_tokens` or more, or has
            characters outside the vocabulary.
    """
    if template.count(QUERY) != 1:
        raise CheckpointError(f"the query template must hold {QUERY} once")
    try:
        tokens = len(tokenizer.encode_query("", template))
    except UnknownCharactersError as error:
        raise CheckpointError(f"the query template: {error}") from error
    if tokens >= config.max_query_tokens:
        raise CheckpointError(
            f"the query template has {tokens} tokens and a query at most"
            f" {config.max_query_tokens} with it, which leaves no room; shorten the template or"
            " raise max_query_tokens",
            limit=config.max_query_tokens,
        )


def load_checkpoint(
    reference: str | Path, *, device: str = "cpu", merge: bool = True
) -> Checkpoint:
    """Load a checkpoint for serving, strictly.

    Args:
        reference: A checkpoint folder, or the name of one that the package bundles.
        device: Where the model goes.
        merge: Add an adapter that is on at WRITE and READ to the weights; training wants it apart.

    Raises:
        CheckpointError: There is no such checkpoint, a file is missing or damaged, a tensor is
            missing, left over or of another shape, or the contents are not those of the
            fingerprint.
        DeviceError: The device is not there.
    """
    folder = find_checkpoint(reference)
    manifest = read_manifest(folder)
    backbone = verify_backbone(folder, manifest)
    model = _load_model(folder, Backbone.from_folder(backbone), manifest.memory, merge=merge)
    tokenizer = Tokenizer.from_folder(folder)
    check_template(tokenizer, manifest.task.query_template, manifest.memory)
    if manifest.task.document_format == "records":
        tokenizer.require_ids([QUERY_MARK, ABSENT])  # refuses a tokenizer without them
    return Checkpoint(
        name=manifest.name,
        fingerprint=manifest.fingerprint,
        model=_placed(model.requires_grad_(False).eval(), device),
        tokenizer=tokenizer,
        task=manifest.task,
        stop_ids=tokenizer.require_ids(manifest.task.stop_tokens),
        calibration=manifest.calibration,
    )


def verify_backbone(checkpoint: Path, manifest: Manifest) -> Path:
    """Return the model folder of a checkpoint folder whose contents are those of its fingerprint.

    Raises:
        CheckpointError: They are others, a file is missing or damaged, or see `find_backbone`.
    """
    backbone = find_backbone(checkpoint, manifest)
    found = compute_fingerprint(checkpoint, _digest(backbone, manifest.backbone), manifest.memory)
    if found != manifest.fingerprint:
        raise CheckpointError(
            f"the contents of {checkpoint} have fingerprint {found}, its gradmem.json says"
            f" {manifest.fingerprint}: a file was damaged or changed; fetch the checkpoint again"
        )
    return backbone


def find_backbone(checkpoint: Path, manifest: Manifest) -> Path:
    """Return the model folder of a checkpoint folder: its own, or the one that it names.

    Raises:
        CheckpointError: The named one is missing, of another hash, or cannot be imported.
    """
    if manifest.backbone is None:
        return checkpoint / "backbone"
    return find_external_backbone(checkpoint, manifest.backbone)


def _load_model(
    folder: Path, backbone: Backbone, config: MemoryConfig, *, merge: bool
) -> MemoryModel:
    """Put a backbone, a write side and an adapter together."""
    stored, adapter = folder / adapters.FOLDER, config.adapter
    merged = merge and adapter is not None and adapter.phases == "both"
    if adapter is not None and merged:
        backbone.merge_adapter(stored, adapter)
    model = MemoryModel(backbone, config, seed=0, merged=merged)
    tensors = _read_tensors(folder / "gradmem.safetensors")
    if adapter is not None and not merged:
        if stored.exists():
            backbone.load_adapter(stored)
        else:  # format 1 has it among the write side
            tensors = _take_adapter(backbone, tensors, folder)
    _load_write_side(model, tensors, folder)
    return model


def _placed(model: MemoryModel, device: str) -> MemoryModel:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # torch raises either
        first_line = str(error).partition("\n")[0]
        raise DeviceError(f"the device {device!r} cannot be used: {first_line}") from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _take_adapter(
    backbone: Backbone, tensors: dict[str, Tensor], folder: Path
) -> dict[str, Tensor]:
    """Give the backbone the adapter that stands among a write side of format 1; return the rest."""
    prefix, old = "backbone.causal_lm.", ".write.weight"
    taken = {name: tensor for name, tensor in tensors.items() if adapters.is_adapter(name)}
    renamed = {
        name.removeprefix(prefix).replace(old, f".{adapters.NAME}.weight"): tensor
        for name, tensor in taken.items()
    }
    adapters.set_adapter(backbone.causal_lm, renamed, folder)
    return {name: tensor for name, tensor in tensors.items() if name not in taken}


def _load_write_side(model: MemoryModel, tensors: dict[str, Tensor], folder: Path) -> None:
    side = model.write_side()
    expected = {name: side[name] for name in side if not adapters.is_adapter(name)}
    if tensors.keys() != expected.keys():
        names = ", ".join(sorted(tensors.keys() ^ expected.keys()))
        raise CheckpointError(
            f"gradmem.safetensors of {folder} and gradmem.json differ in: {names}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape or tensor.dtype != torch.float32:
            raise CheckpointError(
                f"{name} of {folder} is {tensor.dtype} {list(tensor.shape)}, the checkpoint needs"
                f" float32 {list(expected[name].shape)}"
            )
    model.load_state_dict(tensors, strict=False)  # the backbone's entries are already there
