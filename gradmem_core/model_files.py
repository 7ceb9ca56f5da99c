"""The files of models: JSON and safetensors, read strictly.

Fingerprints cover what these functions return, and nothing else of a folder is loaded.
"""

import json
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gradmem_core.errors import CheckpointError

INDEX = "model.safetensors.index.json"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: The file is missing, is not JSON, is nested too deeply, or is not an
            object.
    """
    try:
        value = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return value


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def find_weights(folder: Path) -> list[Path]:
    """Return the files with the tensors of a model folder, by name.

    Raises:
        CheckpointError: There is none, or an index names others, which another engine would load.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"there is no backbone with safetensors files in {folder}")
    if (folder / INDEX).exists():
        named = read_json(folder / INDEX).get("weight_map")
        names = {str(name) for name in named.values()} if isinstance(named, dict) else set()
        if names != {file.name for file in files}:
            raise CheckpointError(
                f"{INDEX} of {folder} names other files than the safetensors files beside it"
            )
    return files


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read the tensors of a model folder.

    Raises:
        CheckpointError: A file is missing or damaged, or two files have a tensor of the same name.
    """
    tensors: dict[str, Tensor] = {}
    for file in find_weights(folder):
        part = read_tensors(file)
        if twice := tensors.keys() & part.keys():
            raise CheckpointError(f"{min(twice)} is in two files of {folder}")
        tensors |= part
    return tensors


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
