"""WRITE LoRA: low-rank adapters that are on at WRITE and off at READ.

LoRA: Hu et al., 2021, arXiv 2106.09685; the adapters are peft's.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

ADAPTER = "write"
"What peft calls the adapters."
PART = ".lora_"
"In the names of an adapter's tensors, and of no other's."
WRAPPED = ".base_layer."
"What peft puts into the names of the tensors that an adapter adds to."


def add_lora(model: nn.Module, rank: int, *, seed: int) -> None:
    """Put adapters on every linear layer but the head, off and without effect at first.

    Args:
        model: A transformers model, changed in place.
        rank: Rank of each adapter, at least 1; its product is not scaled.
        seed: Seed of the adapters' weights.
    """
    from peft import LoraConfig, inject_adapter_in_model  # takes seconds that few need

    trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
    transposed = any(type(module).__name__ == "Conv1D" for module in model.modules())  # GPT-2
    config = LoraConfig(
        r=rank, lora_alpha=rank, target_modules="all-linear", fan_in_fan_out=transposed
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    for parameter in model.parameters():  # peft freezes what it adds to
        parameter.requires_grad_(trained.get(parameter, True))
    _switch(model, on=False)


@contextmanager
def lora(model: nn.Module) -> Iterator[None]:
    """Run a model with its adapters on."""
    _switch(model, on=True)
    try:
        yield
    finally:
        _switch(model, on=False)


def is_lora(name: str) -> bool:
    """Whether a tensor of that name is an adapter's."""
    return PART in name


def without_lora(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A model's tensors as they are named without adapters."""
    return {
        name.replace(WRAPPED, "."): tensor for name, tensor in state.items() if not is_lora(name)
    }


def _switch(model: nn.Module, *, on: bool) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            # peft freezes what is off and trains what is on: that is for the trainer to say.
            trained = {parameter: parameter.requires_grad for parameter in layer.parameters()}
            layer.enable_adapters(enabled=on)
            for parameter, flag in trained.items():
                parameter.requires_grad_(flag)
