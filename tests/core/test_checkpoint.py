"""Checkpoint folders: round trips, fingerprints, and strict loading."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from gradmem_core.checkpoints.fingerprint import LIMITS, compute_fingerprint, digest_backbone
from gradmem_core.checkpoints.manifest import Task, read_manifest
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
EVERYTHING = {
    "memory_projection": True,
    "inner_learning_rate_per_element": True,
    "inner_gradient_clip": 0.5,
}
FILES = (
    "gradmem.json",
    "gradmem.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "backbone/config.json",
    "backbone/model.safetensors",
)


def save(folder: Path, model: MemoryModel, **changes: Any) -> str:
    arguments: dict[str, Any] = {
        "name": "tiny",
        "tokenizer": TOKENIZER,
        "task": TASK,
        "card": "# Tiny\n",
    }
    return save_checkpoint(folder, model=model, **(arguments | changes))


def save_again(folder: Path, loaded: Checkpoint) -> str:
    return save(folder, loaded.model, tokenizer=loaded.tokenizer, task=loaded.task)


def copied(folder: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(folder, target))


def change_json(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change_tensors(path: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def nudge(tensors: dict[str, Tensor], name: str) -> None:
    tensors[name].view(-1)[-1].add_(1e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: TinyModel) -> Path:
    """A whole checkpoint, not to be changed."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    save(folder, tiny_model(**EVERYTHING))
    return folder


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return copied(folder, tmp_path / "copy")


# Round trip


@pytest.mark.parametrize("config", [{}, {"write_head": False}, EVERYTHING], ids=str)
def test_a_loaded_checkpoint_writes_and_reads_the_same(
    tmp_path: Path, tiny_model: TinyModel, random_ids: RandomIds, family: str, config: Any
) -> None:
    model = tiny_model(family, **config)
    fingerprint = save(tmp_path / "tiny", model)
    loaded = load_checkpoint(tmp_path / "tiny")
    assert (loaded.name, loaded.fingerprint, loaded.task) == ("tiny", fingerprint, TASK)
    assert loaded.stop_ids == TOKENIZER.encode("!")
    assert loaded.model.config == model.config
    model.requires_grad_(False)  # as a loaded one; else torch takes other kernels
    contexts, lengths = random_ids(2, 9), torch.tensor([9, 5])
    before = write(model, contexts, lengths, 2, create_graph=False)
    after = write(loaded.model, contexts, lengths, 2, create_graph=False)
    assert torch.equal(before.memory, after.memory)
    assert torch.equal(before.losses, after.losses)
    queries = random_ids(2, 1, 4)
    assert torch.equal(
        read(model, before.memory, queries), read(loaded.model, after.memory, queries)
    )


def test_a_loaded_checkpoint_requires_no_gradient(folder: Path) -> None:
    loaded = load_checkpoint(str(folder))
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert not loaded.model.training


def test_a_backbone_without_layers_embeds_and_holds_no_more_memory(folder: Path) -> None:
    checkpoint = load_checkpoint(folder)
    backbone, ids, parameters = (
        checkpoint.model.backbone,
        torch.tensor([[1, 2]]),
        checkpoint.parameters,
    )
    before = backbone.embed(ids)
    backbone.drop_layers()
    torch.testing.assert_close(backbone.embed(ids), before, rtol=0, atol=0)
    weights = [weight for weight in backbone.parameters() if not weight.is_meta]
    held = sum(weight.untyped_storage().nbytes() for weight in weights)
    assert held == sum(weight.nbytes for weight in weights)
    assert len(weights) < len(list(backbone.parameters()))
    assert sum(weight.numel() for weight in checkpoint.model.parameters()) == parameters


def test_the_folder_holds_what_the_architecture_names(folder: Path) -> None:
    assert {name for name in (*FILES, "README.md") if (folder / name).is_file()} == {
        *FILES,
        "README.md",
    }
    assert (folder / "README.md").read_text() == "# Tiny\n"
    assert json.loads((folder / "gradmem.json").read_text())["format_version"] == 3


def test_saved_again_the_fingerprint_stays(folder: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(folder)
    assert save_again(tmp_path / "again", loaded) == loaded.fingerprint
    assert load_checkpoint(tmp_path / "again").fingerprint == loaded.fingerprint


def test_an_older_checkpoint_is_replaced_whole(tmp_path: Path, tiny_model: TinyModel) -> None:
    first = save(tmp_path / "tiny", tiny_model(seed=1))
    (tmp_path / "tiny" / "left over").touch()
    second = save(tmp_path / "tiny", tiny_model(seed=2))
    assert first != second == load_checkpoint(tmp_path / "tiny").fingerprint
    assert not (tmp_path / "tiny" / "left over").exists()


def test_a_save_that_fails_leaves_the_older_checkpoint(
    tmp_path: Path, tiny_model: TinyModel
) -> None:
    first = save(tmp_path / "tiny", tiny_model(seed=1))
    unwritable: Any = 3.5  # a card is text; by its turn all else has been written
    with pytest.raises(TypeError):
        save(tmp_path / "tiny", tiny_model(seed=2), card=unwritable)
    assert load_checkpoint(tmp_path / "tiny").fingerprint == first
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


# Fingerprint


@settings(max_examples=20)
@given(
    limits=st.fixed_dictionaries({name: st.integers(1, 15) for name in sorted(LIMITS)}).map(
        lambda limits: limits | {"max_write_steps": 20}
    )
)
def test_limits_are_not_part_of_the_fingerprint(
    folder: Path, tiny_model: TinyModel, limits: dict[str, int]
) -> None:
    expected = json.loads((folder / "gradmem.json").read_text())["fingerprint"]
    config = MemoryConfig(**(tiny_model(**EVERYTHING).config.model_dump() | limits))
    assert compute_fingerprint(folder, digest_backbone(folder / "backbone"), config) == expected


@settings(max_examples=30)
@given(
    field=st.sampled_from(["inner_learning_rate", "inner_gradient_clip"]),
    value=st.floats(1e-6, 1e6) | st.none(),
)
def test_numbers_that_change_a_memory_change_the_fingerprint(
    folder: Path, tiny_model: TinyModel, field: str, value: float | None
) -> None:
    before = tiny_model(**EVERYTHING).config
    after = before.model_copy(update={field: value})
    same = getattr(before, field) == value
    prints = {
        compute_fingerprint(folder, digest_backbone(folder / "backbone"), config)
        for config in (before, after)
    }
    assert len(prints) == (1 if same else 2)


@pytest.mark.parametrize(
    "field", ["inner_learning_rate_per_element", "write_head", "memory_projection"]
)
def test_switches_change_the_fingerprint(folder: Path, tiny_model: TinyModel, field: str) -> None:
    before = tiny_model().config
    after = before.model_copy(update={field: not getattr(before, field)})
    prints = {
        compute_fingerprint(folder, digest_backbone(folder / "backbone"), config)
        for config in (before, after)
    }
    assert len(prints) == 2


@pytest.mark.parametrize("file", ["gradmem.safetensors", "backbone/model.safetensors"])
def test_every_tensor_is_part_of_the_fingerprint(own: Path, file: str) -> None:
    prints = [seal(own)]
    for name in load_file(own / file):
        change_tensors(own / file, partial(nudge, name=name))
        prints.append(seal(own))
    assert len(prints) > 3
    assert len(set(prints)) == len(prints)


def test_tokenizer_and_backbone_settings_are_part_of_the_fingerprint(own: Path) -> None:
    before = seal(own)
    change_json(own / "backbone" / "config.json", rms_norm_eps=1e-3)
    between = seal(own)
    tokenizer = own / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"q"', '"Q"'))
    assert len({before, between, seal(own)}) == 3


def test_the_version_of_a_library_is_not_part_of_the_fingerprint(own: Path) -> None:
    before = seal(own)
    change_json(own / "backbone" / "config.json", transformers_version="9.9", dtype="float32")
    assert seal(own) == before


# Strict loading


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_refused(own: Path, file: str) -> None:
    (own / file).unlink()
    with pytest.raises(CheckpointError):
        load_checkpoint(own)


@pytest.mark.parametrize("keep", [0, 0.5, 0.99])
@pytest.mark.parametrize("file", FILES)
def test_a_file_cut_short_is_refused(own: Path, file: str, keep: float) -> None:
    whole = (own / file).read_bytes()
    (own / file).write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(CheckpointError):
        load_checkpoint(own)


@pytest.mark.parametrize("file", ["gradmem.safetensors", "backbone/model.safetensors"])
def test_a_changed_tensor_is_refused_with_both_fingerprints(own: Path, file: str) -> None:
    damaged = bytearray((own / file).read_bytes())
    damaged[-2] ^= 1
    (own / file).write_bytes(damaged)
    expected = json.loads((own / "gradmem.json").read_text())["fingerprint"]
    with pytest.raises(CheckpointError, match=expected):
        load_checkpoint(own)


WEIGHT = "model.layers.0.mlp.up_proj.weight"
WRONG_TENSORS: dict[str, tuple[str, Callable[[dict[str, Tensor]], Any]]] = {
    "extra": ("gradmem", lambda t: t.update(extra=torch.ones(1))),
    "missing": ("gradmem", lambda t: t.pop("initial_memory")),
    "shape": ("gradmem", lambda t: t.update(initial_memory=torch.ones(2, 16))),
    "dtype": ("gradmem", lambda t: t.update(initial_memory=t["initial_memory"].half())),
    "backbone extra": ("backbone/model", lambda t: t.update(extra=torch.ones(1))),
    "backbone missing": ("backbone/model", lambda t: t.pop(WEIGHT)),
    "backbone shape": ("backbone/model", lambda t: t.update({WEIGHT: torch.ones(2, 2)})),
}


@pytest.mark.parametrize("wrong", WRONG_TENSORS)
def test_tensors_that_do_not_fit_are_refused(own: Path, wrong: str) -> None:
    file, change = WRONG_TENSORS[wrong]
    change_tensors(own / f"{file}.safetensors", change)
    seal(own)
    with pytest.raises(CheckpointError):
        load_checkpoint(own)


@pytest.mark.parametrize(
    "fields",
    [
        {"model_type": "no such model"},
        {"model_type": "t5"},
        {"hidden_size": "wide"},
        {"hidden_size": 32},
        {"num_attention_heads": 3},
        {"num_hidden_layers": 1},
        {"num_hidden_layers": 3},
        {"hidden_act": "no such function"},
        {"rope_parameters": 3},
    ],
    ids=str,
)
def test_a_backbone_that_does_not_fit_its_tensors_is_refused(own: Path, fields: Any) -> None:
    change_json(own / "backbone" / "config.json", **fields)
    seal(own)
    with pytest.raises(CheckpointError, match="the backbone in"):
        load_checkpoint(own)


@pytest.mark.parametrize("version", [0, 4, "1", None])
def test_another_format_version_is_refused(own: Path, version: Any) -> None:
    change_json(own / "gradmem.json", format_version=version)
    with pytest.raises(CheckpointError, match=f"version {version}; this GradMem reads 1"):
        load_checkpoint(own)


@pytest.mark.parametrize("version", [1, 2])
def test_the_digest_of_settings_counts_in_older_formats_too(own: Path, version: int) -> None:
    memory = json.loads((own / "gradmem.json").read_text())["memory"]
    if version == 1:  # which has another field for the adapter
        memory.pop("adapter")
    change_json(own / "gradmem.json", format_version=version, memory=memory)
    with pytest.raises(CheckpointError, match="do not match their digest"):
        read_manifest(own)


@pytest.mark.parametrize("text", ["[]", "3", "{", "", '"x"', "\xff"])
def test_a_manifest_of_another_kind_is_refused(own: Path, text: str) -> None:
    (own / "gradmem.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"gradmem\.json"):
        load_checkpoint(own)


def test_unknown_fields_are_refused_and_named(own: Path) -> None:
    fields = json.loads((own / "gradmem.json").read_text())
    change_json(own / "gradmem.json", memory=fields["memory"] | {"colour": "red"})
    with pytest.raises(CheckpointError, match=r"memory\.colour"):
        load_checkpoint(own)
    change_json(own / "gradmem.json", memory=fields["memory"], taste="sweet")
    with pytest.raises(CheckpointError, match="taste"):
        load_checkpoint(own)


def test_a_memory_longer_than_the_backbone_is_refused(own: Path) -> None:
    fields = json.loads((own / "gradmem.json").read_text())
    change_json(own / "gradmem.json", memory=fields["memory"] | {"max_context_tokens": 46})
    seal(own)
    with pytest.raises(CheckpointError, match="more positions than") as caught:
        load_checkpoint(own)
    assert caught.value.limit == 48


def test_a_stop_token_outside_the_vocabulary_is_refused(own: Path) -> None:
    task = TASK.model_copy(update={"stop_tokens": ["Z"]})
    change_json(own / "gradmem.json", task=task.model_dump())
    seal(own)
    with pytest.raises(CheckpointError, match="no token 'Z'"):
        load_checkpoint(own)


# Names and external backbones


def test_an_unknown_name_lists_the_bundled_ones(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradmem_core.checkpoints.manifest.BUNDLED", folder.parent)
    assert load_checkpoint("tiny").name == "tiny"
    with pytest.raises(CheckpointError, match=r"'nothing'.*\(tiny\)"):
        load_checkpoint("nothing")


@pytest.mark.parametrize("relative", [True, False])
def test_a_checkpoint_may_name_its_backbone(
    tmp_path: Path, tiny_model: TinyModel, folder: Path, relative: bool
) -> None:
    model = tiny_model(**EVERYTHING)
    model.backbone.save(tmp_path / "base")
    path = "../base" if relative else str(tmp_path / "base")
    saved = save(tmp_path / "named", model, external_backbone=path)
    assert not (tmp_path / "named" / "backbone").exists()
    loaded = load_checkpoint(tmp_path / "named")
    assert saved == loaded.fingerprint == load_checkpoint(folder).fingerprint


def test_another_backbone_at_the_named_place_is_refused(
    tmp_path: Path, tiny_model: TinyModel
) -> None:
    model = tiny_model()
    model.backbone.save(tmp_path / "base")
    save(tmp_path / "named", model, external_backbone="../base")
    tiny_model(seed=1).backbone.save(tmp_path / "base")
    with pytest.raises(CheckpointError, match="not the one"):
        load_checkpoint(tmp_path / "named")
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(CheckpointError, match="no backbone"):
        load_checkpoint(tmp_path / "named")


def test_a_backbone_that_is_not_there_is_refused_and_nothing_is_left(
    tmp_path: Path, tiny_model: TinyModel
) -> None:
    with pytest.raises(CheckpointError, match="no backbone"):
        save(tmp_path / "named", tiny_model(), external_backbone="../base")
    assert list(tmp_path.iterdir()) == []
