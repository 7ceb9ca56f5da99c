"""The fingerprint of a checkpoint: the SHA-256 that ties a memory to the checkpoint that wrote it.

It is computed from the stored files, so that a later release of a library, which may add fields to
a configuration in memory, does not change it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from gradmem_core.config import MemoryConfig
from gradmem_core.errors import CheckpointError
from gradmem_core.model_files import find_weights, read_json
from gradmem_core.tokenizer import CHAT_TEMPLATE, CONFIG

LIMITS = {
    "write_steps",
    "max_write_steps",
    "max_context_tokens",
    "page_tokens",
    "max_query_tokens",
    "max_answer_tokens",
}
"Fields of MemoryConfig that limit requests and do not change the meaning of a memory."
LATER = {"token_weights", "adapter"}
"Options newer than the first checkpoints; left out where they are off, to keep old fingerprints."
VOLATILE = {"transformers_version", "_name_or_path", "dtype", "torch_dtype", "use_cache"}
"Fields of a backbone's configuration that do not change the model."
UNBOUND = {"base_model_name_or_path", "peft_version", "revision", "inference_mode"}
"Fields of an adapter's configuration that do not change the adapter."


def compute_fingerprint(folder: Path, backbone_sha256: str, config: MemoryConfig) -> str:
    """Compute the fingerprint of every tensor and every setting that a memory depends on.

    Args:
        folder: The checkpoint, with its tokenizer and `gradmem.safetensors`.
        backbone_sha256: Digest of the backbone, see `digest_backbone`.
        config: Configuration of the memory; its limits do not count.

    Raises:
        CheckpointError: A file is missing or damaged.
    """
    digest = hashlib.sha256()
    settings = config.model_dump(mode="json", exclude=LIMITS)
    off = {name for name in LATER if settings[name] == MemoryConfig.model_fields[name].default}
    relevant = {name: settings[name] for name in settings.keys() - off}
    adapter = folder / "adapter"
    if config.adapter is not None and not adapter.exists():
        # Format 1 has the adapter among the write side and its rank among the settings.
        relevant["write_lora_rank"] = relevant.pop("adapter")["rank"]
    _add_json(digest, relevant)
    _add_json(digest, read_json(folder / "tokenizer.json"))
    _add_tensors(digest, folder / "gradmem.safetensors")
    if adapter.exists():
        fields = read_json(adapter / "adapter_config.json")
        _add_json(digest, {name: fields[name] for name in fields.keys() - UNBOUND})
        _add_tensors(digest, adapter / "adapter_model.safetensors")
    digest.update(backbone_sha256.encode())
    return digest.hexdigest()


def digest_settings(folder: Path, manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what a checkpoint's limits and answers depend on.

    It covers every field of `gradmem.json`, the fingerprint among them, but for the place of the
    backbone and the digest itself; and the tokenizer's files that the fingerprint leaves out.

    Args:
        folder: The checkpoint.
        manifest: The fields of its `gradmem.json`, as stored.

    Raises:
        CheckpointError: A file is missing or damaged.
    """
    digest = hashlib.sha256()
    fields = manifest.keys() - {"backbone", "settings_sha256"}
    _add_json(digest, {name: manifest[name] for name in fields})
    _add_json(digest, read_json(folder / CONFIG))
    if (folder / CHAT_TEMPLATE).exists():
        digest.update((folder / CHAT_TEMPLATE).read_bytes())
    return digest.hexdigest()


def digest_backbone(folder: Path) -> str:
    """Return the SHA-256 of a model folder's configuration and tensors.

    Raises:
        CheckpointError: A file is missing or damaged.
    """
    files = find_weights(folder)
    digest = hashlib.sha256()
    settings = read_json(folder / "config.json")
    _add_json(digest, {key: settings[key] for key in settings.keys() - VOLATILE})
    for path in files:
        _add_tensors(digest, path)
    return digest.hexdigest()


def _add_json(digest: "hashlib._Hash", value: dict[str, Any]) -> None:
    try:
        text = json.dumps(value, sort_keys=True)
    except RecursionError as error:  # Python writes less deeply nested JSON than it reads
        raise CheckpointError("the checkpoint has JSON that is nested too deeply") from error
    digest.update(text.encode())


def _add_tensors(digest: "hashlib._Hash", path: Path) -> None:
    try:
        with safe_open(path, framework="pt") as tensors:
            for name in sorted(tensors.keys()):
                tensor = tensors.get_tensor(name)
                digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
                digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
