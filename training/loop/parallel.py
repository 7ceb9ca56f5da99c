"""Processes that train one model together, as torchrun starts them.

Every process holds the whole model and takes its share of a step's micro-batches; their gradients
are summed. `DistributedDataParallel` sums while `backward` runs and does not support the
`torch.autograd.grad` that WRITE is made of, so that the sum is taken here, after the last one.
"""

import os
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from gradmem_core.errors import RecipeError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    rank: int = 0
    "Number of this process, from 0."
    count: int = 1
    "Number of processes."

    @property
    def first(self) -> bool:
        """True for the process that evaluates, reports and writes files."""
        return self.rank == 0

    def sum_gradients(self, model: nn.Module) -> None:
        """Give every process the sum of all processes' gradients."""
        if self.count == 1:
            return
        gradients = self._wanted(model)
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def _wanted(self, model: nn.Module) -> list[Tensor]:
        """Return the gradients of the parameters that have one in any process, zeros elsewhere."""
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        having = self.gather([parameter.grad is not None for parameter in parameters])
        wanted = []
        for parameter, *has in zip(parameters, *having, strict=True):
            if any(has):
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                wanted.append(parameter.grad)
        return wanted

    def share_first(self, mine: T) -> T:
        """Return the value of the first process."""
        return self.gather(mine)[0]

    def wait(self) -> None:
        """Return when every process has come here."""
        self.gather(None)

    def gather(self, mine: T) -> list[T]:
        """Return every process's value, by rank."""
        if self.count == 1:
            return [mine]
        values: list[T | None] = [None] * self.count
        distributed.all_gather_object(values, mine)
        return values  # type: ignore[return-value]


def join_processes(device: torch.device) -> Processes:
    """Join the processes that torchrun started, over nccl on GPUs and gloo elsewhere.

    Without torchrun this is the only process.
    """
    if not distributed.is_torchelastic_launched():
        return Processes()
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Processes(distributed.get_rank(), distributed.get_world_size())


def leave_processes() -> None:
    """Leave the group of processes, if this one is in a group."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def choose_device(wanted: str) -> torch.device:
    """Return this process's device: its own GPU for `cuda`, and for `auto` where there is one.

    Raises:
        RecipeError: There is no GPU, or none for this process.
    """
    there = torch.cuda.device_count()
    if wanted == "cpu" or (wanted == "auto" and not there):
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", "0"))  # torchrun's
    if index >= there:
        raise RecipeError(
            f"device: process {index} on this machine has no GPU, there are {there};"
            " start fewer processes or set device=cpu"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
