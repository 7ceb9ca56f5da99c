"""The weights that are evaluated and exported: averages over steps, and with the start."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage:
    """Averages a model's weights over steps and with those that it started from.

    Args:
        model: The model on its device, before its first step.
        decay: Decay per step of the moving average; None for no average over steps.
        start_share: Share of the weights that the model has now in the result; 0 for none.
    """

    def __init__(self, model: nn.Module, *, decay: float | None, start_share: float) -> None:
        self._model = model
        self._average: AveragedModel | None = None
        if decay is not None:
            average_function = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
            self._average = AveragedModel(model, multi_avg_fn=average_function)
        self._start_share = start_share
        self._start: dict[str, Tensor] = {}
        if start_share:
            self._start = {name: tensor.clone() for name, tensor in trained_tensors(model).items()}

    def update(self) -> None:
        """Take in the weights after an optimizer step."""
        if self._average is not None:
            self._average.update_parameters(self._model)

    @torch.no_grad()
    def average(self) -> nn.Module:
        """Return a model with the averaged weights; the model itself where they are its own."""
        model = self._model if self._average is None else self._average.module
        if not self._start_share:
            return model
        mixed = copy.deepcopy(model)
        for name, parameter in mixed.named_parameters():
            if name in self._start:
                parameter.lerp_(self._start[name], self._start_share)
        return mixed

    def state_dict(self) -> dict[str, Any] | None:
        """Return what resuming needs; None where there is no average over steps."""
        return None if self._average is None else self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Resume from what `state_dict` returned."""
        if self._average is not None and state is not None:
            self._average.load_state_dict(state)


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that training changes: not those of a frozen backbone."""
    parameters = model.named_parameters()
    return {name: each.detach() for name, each in parameters if each.requires_grad}
