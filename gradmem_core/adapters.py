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
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gradmem_core.errors import CheckpointError

FOLDER = "adapter"
"Where a checkpoint holds its adapter."
CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
NAME = "gradmem"
"What peft calls the adapter inside a model; its files do not say."
PART = ".lora_"
"In the names of an adapter's tensors, and of no other's."
WRAPPED = ".base_layer."
"What peft puts into the names of the tensors that an adapter adds to."
STORED = "base_model.model."
"What peft puts before the names of the tensors in its files."
DTYPES = (torch.float32, torch.bfloat16)
"How an adapter may be stored; it is computed with in float32."
KNOWN = {
    *("peft_type", "task_type", "peft_version", "base_model_name_or_path", "revision"),
    *("auto_mapping", "inference_mode", "r", "lora_alpha", "lora_dropout", "fan_in_fan_out"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
}
"Options of peft that say nothing about an adapter but what its tensors, alpha and rank say."
NEUTRAL = {
    "bias": "none",
    "init_lora_weights": True,
    "megatron_core": "megatron.core",
    "qalora_group_size": 16,
}
"Values that change nothing; so does every other option that is off. What is on is refused."


def add_adapter(model: nn.Module, rank: int, *, seed: int) -> None:
    """Put an adapter on every linear layer but the head, off and without effect at first.

    Args:
        model: A transformers model, changed in place.
        rank: Rank of each layer's product, at least 1; the product is not scaled.
        seed: Seed of the adapter's weights.
    """
    from peft import LoraConfig, inject_adapter_in_model  # takes seconds that few need

    trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
    config = LoraConfig(
        r=rank, lora_alpha=rank, target_modules="all-linear", fan_in_fan_out=_transposed(model)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, adapter_name=NAME)
    for parameter in model.parameters():  # peft freezes what it adds to
        parameter.requires_grad_(trained.get(parameter, True))
    switch_adapter(model, on=False)


def switch_adapter(model: nn.Module, *, on: bool) -> None:
    """Turn a model's adapter on or off."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            # peft freezes what is off and trains what is on: that is for the trainer to say.
            trained = {parameter: parameter.requires_grad for parameter in layer.parameters()}
            layer.enable_adapters(enabled=on)
            for parameter, flag in trained.items():
                parameter.requires_grad_(flag)


def unwrap_layer(layer: nn.Module) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """The weight of a layer, and A `(r, i)` and B `(o, r)` of its adapter where it has one."""
    if not hasattr(layer, "base_layer"):
        return cast("Tensor", layer.weight), None
    adapted = cast("Any", layer)
    return adapted.base_layer.weight, (adapted.lora_A[NAME].weight, adapted.lora_B[NAME].weight)


def is_adapter(name: str) -> bool:
    """Whether a tensor of that name is an adapter's."""
    return PART in name


def strip_adapter(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A model's tensors as they are named without an adapter."""
    return {
        name.replace(WRAPPED, "."): tensor for name, tensor in state.items() if not is_adapter(name)
    }


def save_adapter(model: nn.Module, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write a model's adapter as peft does.

    Args:
        model: A transformers model with an adapter.
        folder: Made by this call.
        dtype: Of the stored tensors, one of DTYPES.
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
        fan_in_fan_out=_transposed(model),
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
    """Read a stored adapter into a model that has one of its sizes, for training.

    Raises:
        CheckpointError: The files are missing or damaged, of an unsupported kind, or the sizes
            differ.
    """
    tensors = {
        f"{layer}{PART}{part}.{NAME}.weight": tensor
        for layer, *pair in _pairs(folder)
        for part, tensor in zip("AB", pair, strict=True)
    }
    set_adapter(model, tensors, folder)


def set_adapter(model: nn.Module, tensors: dict[str, Tensor], folder: Path) -> None:
    """Set the adapter of a model, named as inside the model.

    Args:
        model: A transformers model with an adapter.
        tensors: Of all layers.
        folder: Where they come from, for the error.

    Raises:
        CheckpointError: They are not those of the model's adapter.
    """
    expected = {name: tensor for name, tensor in model.state_dict().items() if is_adapter(name)}
    if _kinds(tensors) != _kinds(expected):
        raise CheckpointError(f"the adapter in {folder} is not one of this backbone and rank")
    model.load_state_dict(tensors, strict=False)  # the backbone's tensors are already there


@torch.no_grad()
def merge_adapter(model: nn.Module, folder: Path, rank: int) -> None:
    """Add a stored adapter's products to a model's weights, so that it costs nothing.

    Args:
        model: A transformers model without adapters, changed in place.
        folder: Of the adapter.
        rank: Of its products.

    Raises:
        CheckpointError: The files are missing or damaged, of an unsupported kind or another rank,
            or do not fit.
    """
    transposed = _transposed(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    shared = Counter(id(parameter) for parameter in parameters.values())
    for layer, down, up in _pairs(folder):
        weight = parameters.get(f"{layer}.weight")
        if weight is None or shared[id(weight)] > 1:
            raise CheckpointError(
                f"the adapter in {folder} adds to {layer}, which is no layer of the backbone, or"
                " shares its weight with another"
            )
        target = weight.T if transposed else weight  # (o, i)
        if len(down) != rank or target.shape != (len(up), down.shape[1]):
            raise CheckpointError(
                f"the adapter in {folder} adds {list(up.shape)} x {list(down.shape)} to {layer},"
                f" which is {list(target.shape)}; its rank has to be {rank}"
            )
        target.addmm_(up, down)


def _pairs(folder: Path) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Of each layer its name, A `(r, i)` and B `(o, r)`, whose product is what it adds."""
    config, tensors = _config(folder), _tensors(folder)
    rank, alpha = config["r"], config["lora_alpha"]
    layers = {name.partition(PART)[0] for name in tensors}
    wanted = {f"{layer}{PART}{part}.weight" for layer in layers for part in "AB"}
    if not tensors or wanted != tensors.keys():
        names = ", ".join(sorted(wanted ^ tensors.keys())[:3]) or "none at all"
        raise CheckpointError(f"the adapter in {folder} has other tensors than A and B: {names}")
    for layer in sorted(layers):
        down, up = (tensors[f"{layer}{PART}{part}.weight"].float() for part in "AB")
        if down.ndim != 2 or up.ndim != 2 or not len(down) == up.shape[1] == rank:
            raise CheckpointError(f"the adapter in {folder} has no product of rank {rank}: {layer}")
        yield layer.removeprefix(STORED), down, up * (alpha / rank)


def _tensors(folder: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(folder / TENSORS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / TENSORS} cannot be read: {error}") from error
    if others := {str(tensor.dtype) for tensor in tensors.values() if tensor.dtype not in DTYPES}:
        raise CheckpointError(
            f"{folder / TENSORS} holds {', '.join(sorted(others))}; store it as float32 or bfloat16"
        )
    return tensors


def _config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text())
        usable = config["peft_type"] == "LORA" and config["r"] > 0 and config["lora_alpha"] > 0
        options = config.items()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG} cannot be read: {error!r}") from error
    on = [name for name, value in options if value and NEUTRAL.get(name) != value]
    if not usable or not KNOWN.issuperset(on):
        names = ", ".join(sorted({*on} - KNOWN)) or "peft_type, r, lora_alpha"
        raise CheckpointError(
            f"the adapter in {folder} is of a kind that GradMem does not load ({names})"
        )
    return config


def _kinds(tensors: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _transposed(model: nn.Module) -> bool:
    """Whether the linear layers hold their weights as `(i, o)`: GPT-2's."""
    return any(type(module).__name__ == "Conv1D" for module in model.modules())
