"""Checkpoints: folders with everything that serving needs.

`backbone/` is a plain Hugging Face model folder, beside it are the tokenizer's ordinary files,
`gradmem.json` with the configuration and the fingerprint, `gradmem.safetensors` with M0 and the
write side, `adapter/` with an adapter as peft stores it, and `README.md`, the model card.
`docs/FORMATS.md` describes the fields.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import save_file
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
    write_manifest,
)
from gradmem_core.config import MemoryConfig
from gradmem_core.errors import CheckpointError, DeviceError, UnknownCharactersError
from gradmem_core.model import MemoryModel
from gradmem_core.model_files import read_tensors
from gradmem_core.tokenizer import ABSENT, QUERY, QUERY_MARK, Tokenizer

UNCOVERED = ("added_tokens.json", "special_tokens_map.json", "backbone/adapter_config.json")
"Files that other engines would read from a checkpoint, and that its fingerprint leaves out."


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint, ready to serve; no tensor requires a gradient."""

    name: str
    fingerprint: str
    model: MemoryModel
    tokenizer: Tokenizer
    task: Task
    stop_ids: list[int]
    calibration: Calibration | None = None

    @cached_property
    def parameters(self) -> int:
        """Number of parameters of the model."""
        return sum(weight.numel() for weight in self.model.parameters())

    @property
    def min_confidence(self) -> float:
        """Confidence below which an answer counts as not found, unless the caller sets another."""
        return 0.0 if self.calibration is None else self.calibration.min_confidence

    @property
    def takes_pages(self) -> bool:
        """True if memories may have several pages, and pages may be added to them."""
        return self.task.document_format == "records" or self.model.config.page_tokens is not None

    @cached_property
    def absent_id(self) -> int | None:
        """Token of the answer for a key that is not in memory; None for checkpoints of texts."""
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
        folder: Place of the checkpoint.
        name: Name under which the checkpoint is served.
        model: Backbone, M0 and write side.
        tokenizer: The tokenizer.
        task: The task that the checkpoint was trained for.
        card: The model card, Markdown.
        external_backbone: Model folder (absolute, or relative to `folder`) to name instead of
            storing the backbone, or the entry of another checkpoint.
        calibration: Calibration of confidence.
        adapter_dtype: Type of a stored adapter's tensors, float32 or bfloat16.
        notes: Contents of further files by name, which loading ignores.

    Returns:
        The fingerprint.

    Raises:
        CheckpointError: The model's adapter was merged into its weights, or the named backbone is
            missing or has another hash.
    """
    if model.config.adapter is not None and model.backbone.adapter is None:
        raise CheckpointError(
            f"{name!r} cannot be saved: its adapter was merged into the backbone's weights; load it"
            " with merge=False"
        )
    external = external_backbone
    if isinstance(external, str):
        path = (folder / external).resolve()  # `folder` need not exist yet
        external = ExternalBackbone(path=external, sha256=digest_backbone(path))
    with atomic_folder(folder) as new:
        tokenizer.save(new)
        _save_write_side(model, new, adapter_dtype=adapter_dtype)
        if external is None:
            model.backbone.save(new / "backbone")
        else:
            _save_external(external, folder, new)
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            name=name,
            fingerprint=compute_fingerprint(new, _digest(new / "backbone", external), model.config),
            memory=model.config,
            task=task,
            calibration=calibration,
            backbone=external,
        )
        write_manifest(new, manifest)
        for file, text in {"README.md": card, **(notes or {})}.items():
            (new / file).write_text(text)
    return manifest.fingerprint


def _save_write_side(model: MemoryModel, folder: Path, *, adapter_dtype: torch.dtype) -> None:
    tensors = {
        name: tensor.detach().contiguous()
        for name, tensor in model.write_side().items()
        if not adapters.is_adapter(name)
    }
    save_file(tensors, folder / "gradmem.safetensors")
    if model.config.adapter is not None:
        adapter = folder / adapters.FOLDER
        adapters.save_adapter(model.backbone.causal_lm, adapter, dtype=adapter_dtype)


def _save_external(external: ExternalBackbone, folder: Path, new: Path) -> None:
    """Check an external backbone, and keep the configuration of a packaged one.

    Args:
        external: The entry in the manifest.
        folder: Place of the checkpoint, from which the entry's path counts.
        new: The folder that is being filled.

    Raises:
        CheckpointError: See `find_external_backbone`.
    """
    backbone = find_external_backbone(folder, external)
    if external.package is not None:  # the import needs it, see ExternalBackbone
        (new / "backbone").mkdir()
        shutil.copy(backbone / "config.json", new / "backbone")


def _digest(backbone: Path, external: ExternalBackbone | None) -> str:
    """Return the digest of a backbone; that of an external one was checked when it was found."""
    return digest_backbone(backbone) if external is None else external.sha256


def check_template(tokenizer: Tokenizer, template: str, config: MemoryConfig) -> None:
    """Refuse a query template without a place or room for a query.

    Raises:
        CheckpointError: The template does not contain QUERY exactly once, has `max_query_tokens` or
            more, or has characters outside the vocabulary.
    """
    if template.count(QUERY) != 1:
        raise CheckpointError(f"the query template must contain {QUERY} exactly once")
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
        reference: A checkpoint folder, or the name of a bundled checkpoint.
        device: Device of the model.
        merge: Merge an adapter that is on at WRITE and READ into the weights; training needs it
            separate.

    Raises:
        CheckpointError: There is no such checkpoint, a file is missing or damaged, a tensor is
            missing, unexpected or of another shape, or the contents do not match the fingerprint.
        DeviceError: The device cannot be used.
    """
    folder = find_checkpoint(reference)
    _refuse_uncovered(folder)
    manifest = read_manifest(folder)
    backbone = verify_backbone(folder, manifest)
    model = _load_model(folder, Backbone.from_folder(backbone), manifest.memory, merge=merge)
    _check_finite(model, folder)
    tokenizer = Tokenizer.from_folder(folder)
    if len(tokenizer) > model.backbone.vocabulary_size:
        raise CheckpointError(
            f"the tokenizer of {folder} has {len(tokenizer)} tokens and its backbone"
            f" {model.backbone.vocabulary_size}: they do not belong together"
        )
    check_template(tokenizer, manifest.task.query_template, manifest.memory)
    if manifest.task.document_format == "records":
        tokenizer.require_ids([QUERY_MARK, ABSENT])  # refuses a tokenizer without them
    return Checkpoint(
        name=manifest.name,
        fingerprint=manifest.fingerprint,
        model=_move(model.requires_grad_(False).eval(), device),
        tokenizer=tokenizer,
        task=manifest.task,
        stop_ids=tokenizer.require_ids(manifest.task.stop_tokens),
        calibration=manifest.calibration,
    )


def _refuse_uncovered(folder: Path) -> None:
    """Refuse files that transformers would read, and neither GradMem nor the fingerprint.

    Raises:
        CheckpointError: The folder has such a file.
    """
    for name in UNCOVERED:
        if (folder / name).exists():
            raise CheckpointError(
                f"{folder} has a file {name}, which the fingerprint does not cover; remove it"
            )


def _check_finite(model: MemoryModel, folder: Path) -> None:
    """Refuse weights that are infinite or not numbers.

    Raises:
        CheckpointError: A tensor has such elements.
    """
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise CheckpointError(f"{name} of {folder} has elements that are not finite")


def verify_backbone(checkpoint: Path, manifest: Manifest) -> Path:
    """Compare a checkpoint folder with its fingerprint, and return its model folder.

    Raises:
        CheckpointError: The contents do not match the fingerprint, a file is missing or damaged, or
            see `find_backbone`.
    """
    backbone = find_backbone(checkpoint, manifest)
    actual = compute_fingerprint(checkpoint, _digest(backbone, manifest.backbone), manifest.memory)
    if actual != manifest.fingerprint:
        raise CheckpointError(
            f"the contents of {checkpoint} have fingerprint {actual}, its gradmem.json says"
            f" {manifest.fingerprint}: a file was damaged or changed; fetch the checkpoint again"
        )
    return backbone


def find_backbone(checkpoint: Path, manifest: Manifest) -> Path:
    """Return the model folder of a checkpoint folder: its own, or the one that it names.

    Raises:
        CheckpointError: The named folder is missing, has another hash, or cannot be imported.
    """
    if manifest.backbone is None:
        return checkpoint / "backbone"
    return find_external_backbone(checkpoint, manifest.backbone)


def _load_model(
    folder: Path, backbone: Backbone, config: MemoryConfig, *, merge: bool
) -> MemoryModel:
    """Build the model from a backbone and the stored write side and adapter."""
    stored, adapter = folder / adapters.FOLDER, config.adapter
    merged = merge and adapter is not None and adapter.phases == "both"
    tensors = read_tensors(folder / "gradmem.safetensors")
    _check_sizes(config, tensors, backbone.width, folder)
    if adapter is not None and merged:
        adapters.merge_adapter(backbone.causal_lm, stored, adapter.rank)
    model = MemoryModel(backbone, config, seed=0, merged=merged)
    if adapter is not None and not merged:
        if stored.exists():
            adapters.load_adapter(backbone.causal_lm, stored)
        else:  # format 1 stores it with the write side
            tensors = _take_adapter(backbone, tensors, folder)
    _load_write_side(model, tensors, folder)
    return model


def _check_sizes(
    config: MemoryConfig, tensors: dict[str, Tensor], width: int, folder: Path
) -> None:
    """Refuse sizes that are not those of the stored tensors, before memory is taken for them.

    Raises:
        CheckpointError: The memory has another number of vectors, or the adapter a rank above the
            backbone's width.
    """
    shape = tensors["initial_memory"].shape if "initial_memory" in tensors else ()
    rank = 0 if config.adapter is None else config.adapter.rank
    if shape != (config.memory_tokens, width) or rank > width:
        raise CheckpointError(
            f"gradmem.json of {folder} has {config.memory_tokens} memory vectors and adapters of"
            f" rank {rank}; initial_memory is {list(shape)} and the backbone's width {width}"
        )


def _move(model: MemoryModel, device: str) -> MemoryModel:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # torch raises either
        first_line = str(error).partition("\n")[0]
        raise DeviceError(f"the device {device!r} cannot be used: {first_line}") from error


def _take_adapter(
    backbone: Backbone, tensors: dict[str, Tensor], folder: Path
) -> dict[str, Tensor]:
    """Move the adapter from a write side of format 1 to the backbone; return the other tensors."""
    prefix, old = "backbone.causal_lm.", ".write.weight"
    adapter = {
        name.removeprefix(prefix).replace(old, f".{adapters.NAME}.weight"): tensor
        for name, tensor in tensors.items()
        if adapters.is_adapter(name)
    }
    adapters.set_adapter(backbone.causal_lm, adapter, folder)
    return {name: tensor for name, tensor in tensors.items() if not adapters.is_adapter(name)}


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
