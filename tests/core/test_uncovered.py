"""Ways round the fingerprint of a checkpoint: what its digests do not cover is not loaded."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from gradmem_core.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from gradmem_core.checkpoints.manifest import BUNDLED, Task, list_bundled, read_manifest
from gradmem_core.errors import CheckpointError
from gradmem_core.model import MemoryModel
from gradmem_core.tokenizer import Tokenizer
from tests.sealing import seal

TASK = Task(
    name="kv", stop_tokens=["!"], example_document="ab!", example_query="a", example_answer="b"
)
CODE = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"
JSON_FILES = (
    *("gradmem.json", "tokenizer.json", "tokenizer_config.json"),
    *("backbone/config.json", "adapter/adapter_config.json"),
)
TENSOR_FILES = (
    *("gradmem.safetensors", "backbone/model.safetensors"),
    "adapter/adapter_model.safetensors",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., MemoryModel]) -> Path:
    """A checkpoint with an adapter, not to be changed."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    save_checkpoint(
        folder,
        name="tiny",
        model=tiny_model(adapter={"rank": 2, "phases": "both"}),
        tokenizer=Tokenizer.from_characters("abcdefghijklmnopqrstu!"),
        task=TASK,
        card="",
    )
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


# Settings


@pytest.mark.parametrize(
    "part",
    [
        {"memory": {"max_context_tokens": 20}},
        {"memory": {"write_steps": 1}},
        {"task": {"query_template": "a{query}"}},
        {"task": {"stop_tokens": ["a"]}},
        {"name": "other"},
    ],
    ids=str,
)
def test_limits_and_task_cannot_change_unnoticed(folder: Path, part: dict[str, Any]) -> None:
    fields = json.loads((folder / "gradmem.json").read_text())
    [(name, value)] = part.items()
    change(folder / "gradmem.json", **{name: fields[name] | value if name != "name" else value})
    with pytest.raises(CheckpointError, match="do not match their digest"):
        load_checkpoint(folder)
    change(folder / "gradmem.json", settings_sha256=None)
    with pytest.raises(CheckpointError, match="do not match their digest"):
        load_checkpoint(folder)


def test_a_calibration_cannot_come_unnoticed(folder: Path) -> None:
    always = {"bias": 99.0}
    calibration = {"page": always, "answer": always, "absence": always, "min_confidence": 0.0}
    change(folder / "gradmem.json", calibration=calibration)
    with pytest.raises(CheckpointError, match="do not match their digest"):
        load_checkpoint(folder)


def test_the_settings_of_every_bundled_checkpoint_are_covered(tmp_path: Path) -> None:
    for name in list_bundled():
        own = tmp_path / name
        own.mkdir()
        for file in ("gradmem.json", "tokenizer_config.json", "chat_template.jinja"):
            if (BUNDLED / name / file).exists():
                shutil.copy(BUNDLED / name / file, own)
        memory = read_manifest(own).memory
        longer = memory.model_copy(update={"max_context_tokens": memory.max_context_tokens + 1})
        change(own / "gradmem.json", memory=longer.model_dump(mode="json"))
        with pytest.raises(CheckpointError, match="do not match their digest"):
            read_manifest(own)


# Files and code


def test_an_index_that_names_other_files_is_refused(folder: Path, tmp_path: Path) -> None:
    weights = folder / "backbone" / "model.safetensors"
    shutil.copy(weights, tmp_path / "elsewhere.safetensors")
    index = folder / "backbone" / "model.safetensors.index.json"
    for name in ("../../elsewhere.safetensors", str(tmp_path / "elsewhere.safetensors")):
        index.write_text(json.dumps({"weight_map": dict.fromkeys(load_file(weights), name)}))
        with pytest.raises(CheckpointError, match="names other files"):
            load_checkpoint(folder)


def test_weights_in_several_files_are_covered_and_loaded(folder: Path) -> None:
    backbone = folder / "backbone"
    tensors = load_file(backbone / "model.safetensors")
    (backbone / "model.safetensors").unlink()
    names = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    halves = [dict(list(tensors.items())[part::2]) for part in (0, 1)]
    for name, half in zip(names, halves, strict=True):
        save_file(half, backbone / name, {"format": "pt"})
    places = {key: name for name, half in zip(names, halves, strict=True) for key in half}
    (backbone / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    seal(folder)
    load_checkpoint(folder)
    save_file(tensors, backbone / names[0], {"format": "pt"})
    seal(folder)
    with pytest.raises(CheckpointError, match="is in two files"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "file", ["added_tokens.json", "special_tokens_map.json", "backbone/adapter_config.json"]
)
def test_files_that_other_engines_would_load_are_refused(folder: Path, file: str) -> None:
    (folder / file).write_text("{}")
    with pytest.raises(CheckpointError, match=file):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}},
        {"attn_implementation": "eager"},
        {"transformers_weights": "../../elsewhere.safetensors"},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
    ],
    ids=str,
)
def test_a_configuration_that_names_code_or_files_is_refused(
    folder: Path, fields: dict[str, Any]
) -> None:
    (folder / "backbone" / "evil.py").write_text(CODE)
    change(folder / "backbone" / "config.json", **fields)
    seal(folder)
    with pytest.raises(CheckpointError, match=f"sets {min(fields)}"):
        load_checkpoint(folder)
    assert not (folder / "backbone" / "ran").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}},
        {"extra_special_tokens": ["ab"]},
        {"pad_token": "<none>"},
    ],
    ids=str,
)
def test_a_tokenizers_configuration_cannot_change_it(folder: Path, fields: dict[str, Any]) -> None:
    (folder / "evil.py").write_text(CODE)
    change(folder / "tokenizer_config.json", **fields)
    with pytest.raises(CheckpointError, match="do not match their digest"):
        load_checkpoint(folder)
    seal(folder)
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json of"):
        load_checkpoint(folder)
    assert not (folder / "ran").exists()


def test_a_configuration_cannot_choose_another_tokenizer_file(folder: Path) -> None:
    other = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = other["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.4.0.json").write_text(json.dumps(other))
    change(folder / "tokenizer_config.json", fast_tokenizer_files=["tokenizer.4.0.json"])
    seal(folder)
    assert load_checkpoint(folder).tokenizer.encode("ab") == [2, 3]


# Contents


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("file", TENSOR_FILES)
def test_weights_that_are_not_finite_are_refused(folder: Path, file: str, value: float) -> None:
    tensors = load_file(folder / file)
    tensors[min(tensors)].view(-1)[0] = value
    save_file(tensors, folder / file, {"format": "pt"})
    seal(folder)
    with pytest.raises(CheckpointError, match="not finite"):
        load_checkpoint(folder)


@pytest.mark.parametrize("depth", [990, 100_000])
@pytest.mark.parametrize("file", JSON_FILES)
def test_json_nested_without_end_is_refused(folder: Path, file: str, depth: int) -> None:
    nested = '{"a": ' * depth + "{}" + "}" * depth
    text = (folder / file).read_text()
    for damaged in (nested, text.replace("{", f'{{"nested": {nested},', 1)):
        (folder / file).write_text(damaged)
        with pytest.raises(CheckpointError):
            load_checkpoint(folder)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused(folder: Path, value: str) -> None:
    path = folder / "gradmem.json"
    path.write_text(
        path.read_text().replace('"inner_learning_rate": 0.3', f'"inner_learning_rate": {value}')
    )
    assert value in path.read_text()
    with pytest.raises(CheckpointError, match=r"gradmem\.json"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        ({"memory_tokens": 10**12}, "memory vectors"),
        ({"adapter": {"rank": 10**12, "phases": "write"}}, "rank"),
    ],
)
def test_sizes_beyond_the_stored_ones_take_no_memory(
    folder: Path, memory: dict[str, Any], message: str
) -> None:
    fields = json.loads((folder / "gradmem.json").read_text())
    change(folder / "gradmem.json", memory=fields["memory"] | memory)
    seal(folder)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "field",
    ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"],
)
def test_a_backbone_beyond_its_tensors_takes_no_memory(folder: Path, field: str) -> None:
    change(folder / "backbone" / "config.json", **{field: 10**8})
    seal(folder)
    with pytest.raises(CheckpointError, match="the backbone in"):
        load_checkpoint(folder)
