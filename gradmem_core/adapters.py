"""Low-rank adapters on the backbone's linear layers: at WRITE, at READ, or at both.

LoRA: Hu et al., 2021, arXiv 2106.09685. They are stored as peft stores them, so that other engines
load a checkpoint's `adapter/` unchanged. Shapes: `r` rank, `i` inputs and `o` outputs of a layer.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
UNSUPPORTED = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "lora_bias", "use_qalora")
"Options of peft that change what an adapter adds: refused where they are set."


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
    switch(model, on=False)


def switch(model: nn.Module, *, on: bool) -> None:
    """Turn a model's adapter on or off."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            # peft freezes what is off and trains what is on: that is for the trainer to say.
            trained = {parameter: parameter.requires_grad for parameter in layer.parameters()}
            layer.enable_adapters(enabled=on)
            for parameter, flag in trained.items():
                parameter.requires_grad_(flag)


def is_adapter(name: str) -> bool:
    """Whether a tensor of that name is an adapter's."""
    return PART in name


def without_adapter(state: dict[str, Tensor]) -> dict[str, Tensor]:
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
        CheckpointError: The files are missing or damaged, or the sizes differ.
    """
    tensors = {
        name.removeprefix(STORED).replace(".weight", f".{NAME}.weight"): tensor.float()
        for name, tensor in _tensors(folder).items()
    }
    take_adapter(model, tensors, folder)


def take_adapter(model: nn.Module, tensors: dict[str, Tensor], folder: Path) -> None:
    """Set the adapter of a model, named as inside the model.

    Args:
        model: A transformers model with an adapter.
        tensors: Of all layers.
        folder: Where they come from, for the error.

    Raises:
        CheckpointError: They are not those of the model's adapter.
    """
    expected = {name: tensor for name, tensor in model.state_dict().items() if is_adapter(name)}
    if _shapes(tensors) != _shapes(expected):
        raise CheckpointError(f"the adapter in {folder} is not one of this backbone and rank")
    model.load_state_dict(tensors, strict=False)  # the backbone's tensors are already there


@torch.no_grad()
def merge_adapter(model: nn.Module, folder: Path) -> None:
    """Add a stored adapter's products to a model's weights, so that it costs nothing.

    Args:
        model: A transformers model without adapters, changed in place.
        folder: Of the adapter.

    Raises:
        CheckpointError: The files are missing or damaged, of an unsupported kind, or do not fit.
    """
    config = _config(folder)
    scale = config["lora_alpha"] / config["r"]
    for layer, down, up in _pairs(_tensors(folder), folder):
        try:
            weight = model.get_parameter(f"{layer}.weight")  # (o, i), in GPT-2 (i, o)
        except AttributeError as error:
            raise CheckpointError(
                f"the adapter in {folder} adds to {layer}, which the backbone does not have"
            ) from error
        product = scale * (up.float() @ down.float())  # (o, i)
        if config["fan_in_fan_out"]:
            product = product.T
        if product.shape != weight.shape:
            raise CheckpointError(
                f"the adapter in {folder} adds {list(product.shape)} to {layer}, which is"
                f" {list(weight.shape)}"
            )
        weight.add_(product)


def _pairs(tensors: dict[str, Tensor], folder: Path) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Of each layer its name, A `(r, i)` and B `(o, r)`."""
    layers = {name.partition(PART)[0] for name in tensors}
    wanted = {f"{layer}{PART}{part}.weight" for layer in layers for part in "AB"}
    if wanted != tensors.keys():
        names = ", ".join(sorted(wanted ^ tensors.keys())[:3])
        raise CheckpointError(f"the adapter in {folder} has other tensors than A and B: {names}")
    for layer in sorted(layers):
        down, up = (tensors[f"{layer}{PART}{part}.weight"] for part in "AB")
        if down.ndim != 2 or up.ndim != 2 or len(down) != up.shape[1]:
            raise CheckpointError(f"the adapter in {folder} has no product for {layer}")
        yield layer.removeprefix(STORED), down, up


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
        kind, numbers = config["peft_type"], (config["lora_alpha"], config["r"])
        usable = all(number > 0 for number in numbers) and config["fan_in_fan_out"] in (True, False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG} cannot be read: {error!r}") from error
    if kind != "LORA" or not usable or any(config.get(option) for option in UNSUPPORTED):
        raise CheckpointError(f"the adapter in {folder} is of a kind that GradMem does not load")
    return config


def _shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _transposed(model: nn.Module) -> bool:
    """Whether the linear layers hold their weights as `(i, o)`: GPT-2's."""
    return any(type(module).__name__ == "Conv1D" for module in model.modules())
