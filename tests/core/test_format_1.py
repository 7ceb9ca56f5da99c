"""Checkpoints of format 1, as GradMem wrote them until its adapters got phases."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gradmem_core.adapters import is_adapter
from gradmem_core.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from gradmem_core.checkpoints.fingerprint import compute_fingerprint, digest_backbone
from gradmem_core.checkpoints.manifest import FORMAT_VERSION, Task, read_manifest
from gradmem_core.errors import CheckpointError
from gradmem_core.model import MemoryModel
from gradmem_core.reading.scoring import read
from gradmem_core.tokenizer import Tokenizer
from gradmem_core.writing.descent import write

TinyModel = Callable[..., MemoryModel]
RandomIds = Callable[..., Tensor]

TASK: dict[str, Any] = {
    "name": "kv",
    "stop_tokens": ["!"],
    "query_template": "{query}",
    "document_format": "text",
    "example_document": "ab!",
    "example_query": "a",
    "example_answer": "b",
}


def write_format_1(folder: Path, model: MemoryModel, rank: int | None) -> str:
    """Write a checkpoint with adapters of WRITE as format 1 had it; returns its fingerprint."""
    save_checkpoint(  # what has stayed: backbone and tokenizer
        folder,
        name="old",
        model=model,
        tokenizer=Tokenizer.from_characters("abcdefghijklmnopqrstu!"),
        task=Task(**TASK),
        card="# Old\n",
    )
    for path in folder.glob("adapter/*"):
        path.unlink()
    if rank is not None:
        (folder / "adapter").rmdir()
    tensors = {
        name.replace(".gradmem.", ".write."): tensor.clone()
        for name, tensor in model.state_dict().items()
        if not name.startswith("backbone.") or is_adapter(name)
    }
    save_file(tensors, folder / "gradmem.safetensors")
    memory = model.config.model_dump(mode="json", exclude={"adapter"}) | {"write_lora_rank": rank}
    fingerprint = fingerprint_of_format_1(folder, memory)
    fields = {
        "format_version": 1,
        "name": "old",
        "fingerprint": fingerprint,
        "memory": memory,
        "task": TASK,
        "backbone": None,
    }
    (folder / "gradmem.json").write_text(json.dumps(fields))
    return fingerprint


def fingerprint_of_format_1(folder: Path, memory: dict[str, Any]) -> str:
    """The rule as docs/FORMATS.md had it, for a memory whose token weights are off."""
    limits = (
        *("write_steps", "max_write_steps", "page_tokens"),
        *("max_context_tokens", "max_query_tokens", "max_answer_tokens"),
    )
    settings = {name: value for name, value in memory.items() if name not in limits}
    assert settings.pop("token_weights") is False
    if settings["write_lora_rank"] is None:
        del settings["write_lora_rank"]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    digest.update(json.dumps(tokenizer, sort_keys=True).encode())
    for name, tensor in sorted(load_file(folder / "gradmem.safetensors").items()):
        digest.update(f"{name} torch.float32 {list(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    digest.update(digest_backbone(folder / "backbone").encode())
    return digest.hexdigest()


def adapted(tiny_model: TinyModel, family: str = "llama") -> MemoryModel:
    return tiny_model(family, adapter={"rank": 2, "phases": "write"}, memory_projection=True)


@pytest.mark.parametrize("rank", [2, None])
def test_it_writes_and_reads_as_it_did(
    tmp_path: Path, tiny_model: TinyModel, random_ids: RandomIds, family: str, rank: int | None
) -> None:
    model = adapted(tiny_model, family) if rank else tiny_model(family)
    fingerprint = write_format_1(tmp_path / "old", model, rank)
    loaded = load_checkpoint(tmp_path / "old")
    assert loaded.fingerprint == fingerprint
    assert loaded.model.config == model.config
    assert loaded.task == Task(**TASK)
    ids, lengths = random_ids(2, 9), torch.tensor([9, 5])
    model.requires_grad_(False)
    before = write(model, ids, lengths, 2, create_graph=False).memory
    after = write(loaded.model, ids, lengths, 2, create_graph=False).memory
    assert torch.equal(before, after)
    queries = random_ids(2, 1, 4)
    assert torch.equal(read(model, before, queries), read(loaded.model, after, queries))


def test_saved_again_it_is_of_the_latest_format_and_writes_the_same(
    tmp_path: Path, tiny_model: TinyModel, random_ids: RandomIds
) -> None:
    write_format_1(tmp_path / "old", adapted(tiny_model), 2)
    loaded = load_checkpoint(tmp_path / "old", merge=False)
    save_checkpoint(
        tmp_path / "new",
        name="new",
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        task=loaded.task,
        card="",
    )
    assert read_manifest(tmp_path / "new").format_version == FORMAT_VERSION
    assert (tmp_path / "new" / "adapter").is_dir()
    ids, lengths = random_ids(2, 9), torch.tensor([9, 5])
    memories = [
        write(load_checkpoint(tmp_path / name).model, ids, lengths, 2, create_graph=False).memory
        for name in ("old", "new")
    ]
    assert torch.equal(*memories)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.popitem(),
        lambda tensors: tensors.update(extra=torch.ones(1)),
        lambda tensors: tensors.update({min(tensors): tensors[min(tensors)].half()}),
        lambda tensors: tensors.update({min(tensors): torch.ones(3, 3)}),
    ],
)
def test_adapters_that_do_not_fit_are_refused(
    tmp_path: Path, tiny_model: TinyModel, change: Callable[[dict[str, Tensor]], Any]
) -> None:
    folder = tmp_path / "old"
    write_format_1(folder, adapted(tiny_model), 2)
    tensors = load_file(folder / "gradmem.safetensors")
    assert is_adapter(min(tensors))
    change(tensors)
    save_file(tensors, folder / "gradmem.safetensors")
    fields = json.loads((folder / "gradmem.json").read_text())
    with pytest.raises(CheckpointError, match="fingerprint"):
        load_checkpoint(folder)
    memory = read_manifest(folder).memory
    fields["fingerprint"] = compute_fingerprint(
        folder, digest_backbone(folder / "backbone"), memory
    )
    (folder / "gradmem.json").write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match=r"does not match|differ in"):
        load_checkpoint(folder)


@pytest.mark.parametrize("missing", ["memory", "task"])
def test_a_manifest_that_lacks_a_part_is_refused(
    tmp_path: Path, tiny_model: TinyModel, missing: str
) -> None:
    write_format_1(tmp_path / "old", tiny_model(), None)
    path = tmp_path / "old" / "gradmem.json"
    fields = json.loads(path.read_text())
    for value in (None, 3):
        path.write_text(json.dumps(fields | {missing: value}))
        with pytest.raises(CheckpointError, match=r"gradmem\.json"):
            read_manifest(tmp_path / "old")
    del fields[missing]
    path.write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match=missing):
        read_manifest(tmp_path / "old")
