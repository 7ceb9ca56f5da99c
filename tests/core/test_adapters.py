"""Adapters: WRITE and READ compute, by phase, what peft computes from the stored folder."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from gradmem_core.adapters import is_adapter, merge_adapter
from gradmem_core.backbone import Backbone
from gradmem_core.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from gradmem_core.checkpoints.fingerprint import compute_fingerprint, digest_backbone
from gradmem_core.checkpoints.manifest import Task
from gradmem_core.config import MemoryConfig
from gradmem_core.errors import CheckpointError
from gradmem_core.model import MemoryModel
from gradmem_core.reading.scoring import read
from gradmem_core.tokenizer import Tokenizer
from gradmem_core.writing.descent import write
from tests.sealing import seal

TinyModel = Callable[..., MemoryModel]
RandomIds = Callable[..., Tensor]

TOKENIZER = Tokenizer.from_characters("abcdefghijklmnopqrstu!")
TASK = Task(
    name="kv", stop_tokens=["!"], example_document="ab!", example_query="a", example_answer="b"
)
PHASES = ("write", "read", "both")
RANK = 2
LENGTHS = torch.tensor([9, 5])
PEFT_WARNS = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
"peft uses a name of transformers that the next release changes."


def adapted(tiny_model: TinyModel, family: str = "llama", phases: str = "both") -> MemoryModel:
    return tiny_model(family, adapter={"rank": RANK, "phases": phases}, memory_projection=True)


def save(folder: Path, model: MemoryModel, **options: Any) -> str:
    return save_checkpoint(
        folder, name="tiny", model=model, tokenizer=TOKENIZER, task=TASK, card="# Tiny\n", **options
    )


def written(model: MemoryModel, ids: Tensor) -> Tensor:
    return write(model, ids, LENGTHS, 2, create_graph=False).memory


def with_memory(model: torch.nn.Module, prefix: Tensor, query: Tensor) -> Tensor:
    """Return a transformers model's logits `(V,)` after a memory `(m, d)` and a query."""
    embeddings = model.get_input_embeddings()(query)  # type: ignore[operator]
    inputs = torch.cat([prefix, embeddings])[None]
    logits: Tensor = model(inputs_embeds=inputs).logits[0, -1]
    return logits


def config_of(folder: Path) -> MemoryConfig:
    return MemoryConfig(**json.loads((folder / "gradmem.json").read_text())["memory"])


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    path = folder / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def nudge(tensors: dict[str, Tensor], name: str) -> None:
    tensors[name].view(-1)[-1].add_(1e-3)


def fingerprint(folder: Path) -> str:
    return compute_fingerprint(folder, digest_backbone(folder / "backbone"), config_of(folder))


@pytest.fixture
def folder(tmp_path: Path, tiny_model: TinyModel) -> Path:
    """A checkpoint whose adapter is on always."""
    save(tmp_path / "tiny", adapted(tiny_model))
    return tmp_path / "tiny"


# What an adapter does


@PEFT_WARNS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("phases", PHASES)
def test_read_says_what_peft_says(
    tmp_path: Path,
    tiny_model: TinyModel,
    random_ids: RandomIds,
    family: str,
    phases: str,
    dtype: torch.dtype,
) -> None:
    folder = tmp_path / "tiny"
    save(folder, adapted(tiny_model, family, phases), adapter_dtype=dtype)
    model = load_checkpoint(folder).model
    memory = written(model, random_ids(2, 9))
    queries = random_ids(2, 1, 4)
    plain = AutoModelForCausalLM.from_pretrained(folder / "backbone")
    plain.requires_grad_(False)
    without = with_memory(plain, model.prefix(memory)[0], queries[0, 0])
    peft = PeftModel.from_pretrained(plain, str(folder / "adapter")).eval()
    adapted_by_peft = with_memory(peft, model.prefix(memory)[0], queries[0, 0])
    assert not torch.allclose(without, adapted_by_peft, rtol=0.01, atol=0.01)
    ours = read(model, memory, queries)[0, 0, -1]
    torch.testing.assert_close(ours, without if phases == "write" else adapted_by_peft)


def test_write_has_the_adapter_in_its_phases(
    tmp_path: Path, tiny_model: TinyModel, random_ids: RandomIds, family: str
) -> None:
    ids = random_ids(2, 9)
    memories = {}
    for phases in PHASES:
        model = adapted(tiny_model, family, phases)
        memories[phases] = written(model, ids)
        without = {
            name: tensor
            for name, tensor in model.state_dict().items()
            if not is_adapter(name) and not name.startswith("backbone.")
        }
    plain = tiny_model(family, memory_projection=True)
    model.backbone.save(tmp_path / "backbone")  # without its adapter
    plain.backbone = Backbone.from_folder(tmp_path / "backbone")
    plain.load_state_dict(without, strict=False)
    assert torch.equal(memories["write"], memories["both"])
    assert torch.equal(memories["read"], written(plain, ids))
    assert not torch.allclose(memories["read"], memories["both"], atol=1e-3)


def test_merged_is_unmerged_within_rounding(
    tmp_path: Path, tiny_model: TinyModel, random_ids: RandomIds, family: str
) -> None:
    save(tmp_path / "tiny", adapted(tiny_model, family))
    merged = load_checkpoint(tmp_path / "tiny").model
    apart = load_checkpoint(tmp_path / "tiny", merge=False).model
    assert merged.backbone.adapter is None
    assert not any(is_adapter(name) for name in merged.state_dict())
    assert apart.backbone.adapter is not None
    ids, queries = random_ids(2, 9), random_ids(2, 1, 4)
    torch.testing.assert_close(written(merged, ids), written(apart, ids), rtol=1e-4, atol=1e-5)
    memory = written(merged, ids)
    torch.testing.assert_close(
        read(merged, memory, queries), read(apart, memory, queries), rtol=1e-4, atol=1e-5
    )


@PEFT_WARNS
@pytest.mark.parametrize("merge", [True, False])
def test_an_adapter_that_peft_made_is_scaled_as_peft_does(
    folder: Path, random_ids: RandomIds, merge: bool
) -> None:
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_pretrained(folder / "backbone")
    peft = get_peft_model(
        plain, LoraConfig(r=RANK, lora_alpha=6, target_modules="all-linear", lora_dropout=0.1)
    ).eval()
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if is_adapter(name):
                parameter.normal_(std=0.2)
    peft.save_pretrained(str(folder / "adapter"))
    seal(folder)
    backbone = load_checkpoint(folder, merge=merge).model.backbone
    ids = random_ids(2, 6)
    ours = backbone.logits(backbone.hidden(backbone.embed(ids)))
    torch.testing.assert_close(ours, peft(ids).logits, rtol=1e-4, atol=1e-5)
    with peft.disable_adapter():
        assert not torch.allclose(ours, peft(ids).logits, atol=0.01)


# Storage


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("phases", PHASES)
def test_saved_again_the_fingerprint_stays(
    tmp_path: Path, tiny_model: TinyModel, family: str, phases: str, dtype: torch.dtype
) -> None:
    first = save(tmp_path / "tiny", adapted(tiny_model, family, phases), adapter_dtype=dtype)
    stored = load_file(tmp_path / "tiny" / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    loaded = load_checkpoint(tmp_path / "tiny", merge=False)
    assert loaded.fingerprint == first
    again = save_checkpoint(
        tmp_path / "again",
        name="tiny",
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        task=loaded.task,
        card="",
        adapter_dtype=dtype,
    )
    assert again == first


def test_the_adapter_stands_in_its_own_folder_alone(folder: Path) -> None:
    for file in ("gradmem.safetensors", "backbone/model.safetensors"):
        assert not any(
            is_adapter(name) or "base_layer" in name for name in load_file(folder / file)
        )
    assert {path.name for path in (folder / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_a_merged_adapter_cannot_be_saved(folder: Path, tmp_path: Path) -> None:
    model = load_checkpoint(folder).model
    with pytest.raises(CheckpointError, match=r"merged into .* merge=False"):
        save(tmp_path / "again", model)
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
def test_every_tensor_of_the_adapter_is_part_of_the_fingerprint(folder: Path, part: str) -> None:
    tensors = load_file(folder / "adapter" / "adapter_model.safetensors")
    prints = {fingerprint(folder)}
    names = [name for name in tensors if part in name]
    for name in names:
        change_tensors(folder, partial(nudge, name=name))
        prints.add(fingerprint(folder))
    assert len(prints) == 1 + len(names) > 14


def test_alpha_is_part_of_the_fingerprint_and_peft_is_not(folder: Path) -> None:
    before = fingerprint(folder)
    change_config(
        folder,
        peft_version="9.9",
        base_model_name_or_path="/elsewhere",
        revision="main",
        inference_mode=False,
    )
    assert fingerprint(folder) == before
    change_config(folder, lora_alpha=8)
    assert fingerprint(folder) != before
    with pytest.raises(CheckpointError, match=before):
        load_checkpoint(folder)


# Refused


def first(tensors: dict[str, Tensor], part: str) -> str:
    return min(name for name in tensors if part in name)


def reshape(tensors: dict[str, Tensor], part: str, *shape: int) -> None:
    tensors[first(tensors, part)] = torch.ones(shape)


WRONG_TENSORS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "no B": lambda t: t.pop(first(t, "lora_B")),
    "no A": lambda t: t.pop(first(t, "lora_A")),
    "none": lambda t: t.clear(),
    "dora": lambda t: t.update(
        {first(t, "lora_A").replace("A.weight", "magnitude"): t.popitem()[1]}
    ),
    "inputs": lambda t: reshape(t, "lora_A", RANK, 3),
    "outputs": lambda t: reshape(t, "lora_B", 3, RANK),
    "rank of A": lambda t: reshape(t, "lora_A", RANK + 1, 24),
    "a vector": lambda t: reshape(t, "lora_A", 16),
    "float16": lambda t: t.update({name: tensor.half() for name, tensor in t.items()}),
    "one float64": lambda t: t.update({first(t, "lora_A"): t[first(t, "lora_A")].double()}),
    "no such layer": lambda t: t.update(
        {
            name.replace("layers.1", "layers.7"): t.pop(name)
            for name in list(t)
            if "layers.1" in name
        }
    ),
}
WRONG_CONFIGS: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "rank pattern": {"rank_pattern": {"q_proj": 4}},
    "alpha pattern": {"alpha_pattern": {"q_proj": 4}},
    "bias": {"bias": "all"},
    "bias of the adapter": {"lora_bias": True},
    "whole modules": {"modules_to_save": ["lm_head"]},
    "residual base": {"init_lora_weights": "pissa"},
    "an option of later": {"use_wings": True},
    "another kind": {"peft_type": "IA3"},
    "no rank": {"r": 0},
    "another rank": {"r": 4},
    "rank in words": {"r": "two"},
    "no alpha": {"lora_alpha": None},
}


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("wrong", WRONG_TENSORS)
def test_tensors_that_are_no_adapter_are_refused(folder: Path, wrong: str, merge: bool) -> None:
    change_tensors(folder, WRONG_TENSORS[wrong])
    seal(folder)
    with pytest.raises(CheckpointError, match="adapter"):
        load_checkpoint(folder, merge=merge)


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("wrong", WRONG_CONFIGS)
def test_kinds_of_adapters_that_would_be_read_wrongly_are_refused(
    folder: Path, wrong: str, merge: bool
) -> None:
    change_config(folder, **WRONG_CONFIGS[wrong])
    seal(folder)
    with pytest.raises(CheckpointError, match="adapter"):
        load_checkpoint(folder, merge=merge)


@pytest.mark.parametrize("merge", [True, False])
def test_an_adapter_of_another_rank_than_the_manifest_says_is_refused(
    folder: Path, tmp_path: Path, tiny_model: TinyModel, merge: bool
) -> None:
    other = tiny_model(adapter={"rank": RANK + 1, "phases": "both"})
    save(tmp_path / "other", other)
    for path in (tmp_path / "other" / "adapter").iterdir():
        path.replace(folder / "adapter" / path.name)
    seal(folder)
    with pytest.raises(CheckpointError, match="rank"):
        load_checkpoint(folder, merge=merge)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("contents", [None, b"", b"[]", b"\xff"], ids=str)
def test_damaged_files_are_refused(folder: Path, name: str, contents: bytes | None) -> None:
    (folder / "adapter" / name).unlink()
    if contents is not None:
        (folder / "adapter" / name).write_bytes(contents)
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(folder)


def test_a_missing_adapter_is_refused(folder: Path) -> None:
    for path in (folder / "adapter").iterdir():
        path.unlink()
    (folder / "adapter").rmdir()
    with pytest.raises(CheckpointError, match="fingerprint"):
        load_checkpoint(folder)


def test_a_product_that_would_change_the_embeddings_too_is_refused(folder: Path) -> None:
    model = Backbone.from_folder(folder / "backbone").causal_lm
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = {
        "base_model.model.lm_head.lora_A.weight": torch.ones(RANK, 16),
        "base_model.model.lm_head.lora_B.weight": torch.ones(24, RANK),
    }
    save_file(tensors, folder / "adapter" / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="lm_head"):
        merge_adapter(model, folder / "adapter", RANK)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
