"""Checkpoints with a file changed at random: they load, or are refused with a CheckpointError.

`--hypothesis-profile=long` draws many more.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from gradmem_core.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from gradmem_core.checkpoints.manifest import Task
from gradmem_core.errors import CheckpointError
from gradmem_core.model import MemoryModel
from gradmem_core.tokenizer import Tokenizer
from tests.mutations import replace_value
from tests.sealing import seal

TASK = Task(
    name="kv", stop_tokens=["!"], example_document="ab!", example_query="a", example_answer="b"
)
JSON_FILES = (
    *("gradmem.json", "tokenizer.json", "tokenizer_config.json"),
    *("backbone/config.json", "adapter/adapter_config.json"),
)
TENSOR_FILES = (
    *("gradmem.safetensors", "backbone/model.safetensors"),
    "adapter/adapter_model.safetensors",
)
fewer = settings(max_examples=settings().max_examples // 4)
"Loading takes a tenth of a second."


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., MemoryModel]) -> Path:
    """A checkpoint with every kind of file, not to be changed."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    save_checkpoint(
        folder,
        name="tiny",
        model=tiny_model(adapter={"rank": 2, "phases": "both"}, memory_projection=True),
        tokenizer=Tokenizer.from_characters("abcdefghijklmnopqrstu!"),
        task=TASK,
        card="",
    )
    return folder


def load_changed(whole: Path, change: Callable[[Path], object], *, sealed: bool = True) -> None:
    """Change a copy of a checkpoint and load it; any error must be ours."""
    with TemporaryDirectory() as scratch:
        folder = Path(shutil.copytree(whole, Path(scratch) / "tiny"))
        change(folder)
        try:
            if sealed:
                _try_to_seal(folder)
            model = load_checkpoint(folder).model
        except CheckpointError:
            return
        assert all(parameter.isfinite().all() for parameter in model.parameters())


def _try_to_seal(folder: Path) -> None:
    """Write digests of the changed files, unless their damage keeps even that from being done."""
    try:
        seal(folder)
    except (ValueError, KeyError, TypeError, AttributeError):  # of gradmem.json itself
        return


@fewer
@given(st.sampled_from(JSON_FILES + TENSOR_FILES), st.booleans(), st.data())
def test_changed_bytes(whole: Path, file: str, sealed: bool, data: st.DataObject) -> None:
    def change(folder: Path) -> None:
        content = bytearray((folder / file).read_bytes())
        positions = st.integers(0, min(len(content), 2000) - 1) | st.integers(0, len(content) - 1)
        for at, value in data.draw(
            st.dictionaries(positions, st.integers(0, 255), min_size=1, max_size=4)
        ).items():
            content[at] = value
        end = data.draw(st.none() | st.integers(0, len(content)))
        (folder / file).write_bytes(bytes(content[:end]))

    load_changed(whole, change, sealed=sealed)


@fewer
@given(st.sampled_from(JSON_FILES), st.data())
def test_changed_json(whole: Path, file: str, data: st.DataObject) -> None:
    def change(folder: Path) -> None:
        tree = replace_value(data, json.loads((folder / file).read_text()))
        (folder / file).write_text(json.dumps(tree))

    load_changed(whole, change)


@fewer
@given(st.sampled_from(TENSOR_FILES), st.data())
def test_changed_tensors(whole: Path, file: str, data: st.DataObject) -> None:
    def change(folder: Path) -> None:
        tensors = load_file(folder / file)
        name = data.draw(st.sampled_from(sorted(tensors)))
        tensor = tensors.pop(name)
        kind = data.draw(st.sampled_from(["gone", "renamed", "empty", "flat", "dtype", "value"]))
        if kind == "renamed":
            tensors[data.draw(st.text(max_size=9))] = tensor
        elif kind == "empty":
            tensors[name] = tensor[:0]
        elif kind == "flat":
            tensors[name] = tensor.reshape(-1)
        elif kind == "dtype":
            names = ["bool", "int8", "int64", "uint8", "float16", "bfloat16", "float64"]
            tensors[name] = tensor.to(getattr(torch, data.draw(st.sampled_from(names))))
        elif kind == "value":
            number = data.draw(st.floats(width=32))
            tensors[name] = tensor.clone().index_fill_(0, torch.tensor([0]), number)
        save_file(tensors, folder / file, {"format": "pt"})

    load_changed(whole, change)
