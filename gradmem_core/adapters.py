"""Low-rank adapters on the backbone's linear layers: at WRITE, at READ, or at both.

LoRA: Hu et al., 2021, arXiv 2106.09685. They are stored as peft stores them, so that other engines
load a checkpoint's `adapter/` unchanged. Shapes: `r` rank, `i` inputs and `o` outputs of a layer.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gradmem_core.errors import CheckpointError
from gradmem_core.model_files import read_json, read_tensors

FOLDER = "adapter"
"Folder of a checkpoint's adapter."
CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
NAME = "gradmem"
"Name of the adapter inside a model; peft's files do not have it."
PART = ".lora_"
"Part of the names of an adapter's tensors, and of no others."
WRAPPED = ".base_layer."
"Part that peft adds to the names of the tensors below an adapter."
STORED = "base_model.model."
"Prefix that peft adds to the names of the tensors in its files."
DTYPES = (torch.float32, torch.bfloat16)
"Types of a stored adapter's tensors; it is computed in float32."
KNOWN = {
    *("peft_type", "task_type", "peft_version", "base_model_name_or_path", "revision"),
    *("auto_mapping", "inference_mode", "r", "lora_alpha", "lora_dropout", "fan_in_fan_out"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
}
"Options of peft that change nothing beyond an adapter's tensors, alpha and rank."
NEUTRAL = {
    "bias": "none",
    "init_lora_weights": True,
    "megatron_core": "megatron.core",
    "qalora_group_size": 16,
}
"Values that change nothing. Other options must be off; an adapter with one on is refused."


def add_adapter(model: nn.Module, rank: int, *, seed: int) -> None:
    """Add an adapter to every linear layer except the head; it is off and without effect at first.

    Args:
        model: A transformers model, changed in place.
        rank: Rank of each layer's product, at least 1; the product is not scaled.
        seed: Seed of the adapter's weights.
    """
    from peft import LoraConfig, inject_adapter_in_model  # takes seconds, and is seldom needed

    trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
    config = LoraConfig(
        r=rank, lora_alpha=rank, target_modules="all-linear", fan_in_fan_out=_is_transposed(model)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, adapter_name=NAME)
    for parameter in model.parameters():  # peft freezes the other parameters
        parameter.requires_grad_(trained.get(parameter, True))
    switch_adapter(model, on=False)


def switch_adapter(model: nn.Module, *, on: bool) -> None:
    """Turn a model's adapter on or off."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            # peft freezes an adapter that is off and trains one that is on: the trainer decides.
            trained = {parameter: parameter.requires_grad for parameter in layer.parameters()}
            layer.enable_adapters(enabled=on)
            for parameter, flag in trained.items():
                parameter.requires_grad_(flag)


def unwrap_layer(layer: nn.Module) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Return the weight of a layer, and A `(r, i)` and B `(o, r)` of its adapter if it has one."""
    if not hasattr(layer, "base_layer"):
        return cast("Tensor", layer.weight), None
    adapted = cast("Any", layer)
    return adapted.base_layer.weight, (adapted.lora_A[NAME].weight, adapted.lora_B[NAME].weight)


def is_adapter(name: str) -> bool:
    """Tell whether the name of a tensor is that of an adapter's tensor."""
    return PART in name


def strip_adapter(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a model's tensors without its adapter, named as in a model without one."""
    return {
        name.replace(WRAPPED, "."): tensor for name, tensor in state.items() if not is_adapter(name)
    }


def save_adapter(model: nn.Module, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write a model's adapter as peft does.

    Args:
        model: A transformers model with an adapter.
        folder: Folder of the adapter, which must not exist.
        dtype: Type of the stored tensors, one of DTYPES.
    """
    from peft import LoraConfig

    tensors = {
        STORED + name.replace(f".{NAME}.", "."): tensor.detach().to(dtype).contiguous()
        for name, tensor in model.state_dict().items()
        if is_adapter(name)
    }
    layers = {name.rpartition(PART)[0] for name in tensors}
    rank = next(len(tensor) for name, tensor in tensors.items() if ".lora_A." in name)
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=sorted({layer.rpartition(".")[2] for layer in layers}),
        fan_in_fan_out=_is_transposed(model),
        task_type="CAUSAL_LM",
        inference_mode=True,
    )
    fields = {
        name: sorted(value) if isinstance(value, set) else value
        for name, value in config.to_dict().items()  # type: ignore[no-untyped-call]
    }
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
    save_file(tensors, folder / TENSORS)


def load_adapter(model: nn.Module, folder: Path) -> None:
    """Load a stored adapter into a model with an adapter of the same sizes, for training.

    Raises:
        CheckpointError: The files are missing or damaged, of an unsupported kind, or the sizes
            differ.
    """
    tensors = {
        f"{layer}{PART}{part}.{NAME}.weight": tensor
        for layer, *pair in _read_pairs(folder)
        for part, tensor in zip("AB", pair, strict=True)
    }
    set_adapter(model, tensors, folder)


def set_adapter(model: nn.Module, tensors: dict[str, Tensor], folder: Path) -> None:
    """Set the tensors of a model's adapter.

    Args:
        model: A transformers model with an adapter.
        tensors: The adapter's tensors, named as inside the model.
        folder: Source of the tensors, for the error.

    Raises:
        CheckpointError: The names or sizes are not those of the model's adapter.
    """
    expected = {name: tensor for name, tensor in model.state_dict().items() if is_adapter(name)}
    if _describe(tensors) != _describe(expected):
        raise CheckpointError(f"the adapter in {folder} does not match this backbone and rank")
    model.load_state_dict(tensors, strict=False)  # the backbone's tensors are already there


@torch.no_grad()
def merge_adapter(model: nn.Module, folder: Path, rank: int) -> None:
    """Add a stored adapter's products to a model's weights, so that it costs nothing to run.

    Args:
        model: A transformers model without adapters, changed in place.
        folder: Folder of the adapter.
        rank: Rank of the products.

    Raises:
        CheckpointError: The files are missing or damaged, of an unsupported kind or another rank,
            or do not match the model.
    """
    transposed = _is_transposed(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    shared = Counter(id(parameter) for parameter in parameters.values())
    for layer, down, up in _read_pairs(folder):
        weight = parameters.get(f"{layer}.weight")
        if weight is None or shared[id(weight)] > 1:
            raise CheckpointError(
                f"the adapter in {folder} adds to {layer}, which is not a layer of the backbone or"
                " shares its weight with another layer"
            )
        target = weight.T if transposed else weight  # (o, i)
        if len(down) != rank or target.shape != (len(up), down.shape[1]):
            raise CheckpointError(
                f"the adapter in {folder} adds {list(up.shape)} x {list(down.shape)} to {layer},"
                f" which is {list(target.shape)}; its rank must be {rank}"
            )
        target.addmm_(up, down)


def _read_pairs(folder: Path) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield the name of each layer, and A `(r, i)` and B `(o, r)`, whose product is added to it."""
    config, tensors = _read_config(folder), _read_tensors(folder)
    rank, alpha = config["r"], config["lora_alpha"]
    layers = {name.partition(PART)[0] for name in tensors}
    expected = {f"{layer}{PART}{part}.weight" for layer in layers for part in "AB"}
    if not tensors or expected != tensors.keys():
        names = ", ".join(sorted(expected ^ tensors.keys())[:3]) or "it has none"
        raise CheckpointError(
            f"the tensors of the adapter in {folder} are not A and B of its layers: {names}"
        )
    for layer in sorted(layers):
        down, up = (tensors[f"{layer}{PART}{part}.weight"].float() for part in "AB")
        if down.ndim != 2 or up.ndim != 2 or not len(down) == up.shape[1] == rank:
            raise CheckpointError(f"the adapter in {folder} has no product of rank {rank}: {layer}")
        yield layer.removeprefix(STORED), down, up * (alpha / rank)


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    tensors = read_tensors(folder / TENSORS)
    if others := {str(tensor.dtype) for tensor in tensors.values() if tensor.dtype not in DTYPES}:
        raise CheckpointError(
            f"{folder / TENSORS} has {', '.join(sorted(others))}; store it as float32 or bfloat16"
        )
    return tensors


def _read_config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / CONFIG)
    try:
        usable = config["peft_type"] == "LORA" and config["r"] > 0 and config["lora_alpha"] > 0
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG} cannot be read: {error!r}") from error
    on = [name for name, value in config.items() if value and NEUTRAL.get(name) != value]
    if not usable or not KNOWN.issuperset(on):
        names = ", ".join(sorted({*on} - KNOWN)) or "peft_type, r, lora_alpha"
        raise CheckpointError(f"the adapter in {folder} has unsupported options: {names}")
    return config


def _describe(tensors: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _is_transposed(model: nn.Module) -> bool:
    """Tell whether the linear layers store their weights as `(i, o)`, as GPT-2's do."""
    return any(type(module).__name__ == "Conv1D" for module in model.modules())
