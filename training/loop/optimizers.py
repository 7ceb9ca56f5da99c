"""The optimizers of the outer loop and their schedule."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.optimizer import Optimizer as TorchOptimizer

from training.recipes.schema import Optimizer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
PROJECTION = "memory_projection.weight"


class Muon(TorchOptimizer):
    """Momentum whose updates are orthogonalised (Jordan et al., 2024).

    torch's own Muon iterates in bfloat16, which is very slow on CPUs; this one keeps float32 and
    treats matrices of one shape together. Updates are scaled by `0.2 * sqrt(max(rows, columns))`,
    which gives them the size of AdamW's (Liu et al., arXiv 2502.16982, section 2.2).

    Args:
        parameters: Matrices.
        lr: Learning rate.
        momentum: Decay of the Nesterov momentum.
        weight_decay: Decoupled weight decay.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ANN401, ARG002
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                self._update(group, shape, parameters)

    def _update(
        self, group: dict[str, Any], shape: torch.Size, parameters: list[nn.Parameter]
    ) -> None:
        updates = []
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            gradient = parameter.grad
            assert gradient is not None
            state["momentum"].lerp_(gradient, 1 - group["momentum"])
            updates.append(gradient.lerp(state["momentum"], group["momentum"]))
        scale = 0.2 * max(shape) ** 0.5
        directions = orthogonalise(torch.stack(updates))  # (matrices, rows, columns)
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(direction, alpha=-group["lr"] * scale)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Push all singular values of `(..., rows, columns)` towards 1 by Newton-Schulz steps."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


def build_optimizers(model: nn.Module, settings: Optimizer) -> list[TorchOptimizer]:
    """Build the optimizers of a model's parameters; every parameter is in exactly one."""
    matrices, inner_rates, projections, rest = [], [], [], []
    for name, parameter in model.named_parameters():
        if name == "log_inner_learning_rate":
            inner_rates.append(parameter)
        elif name == PROJECTION and settings.name == "adamw":
            projections.append(parameter)
        elif settings.name == "muon" and _is_inner_matrix(name, parameter):
            matrices.append(parameter)
        else:
            rest.append(parameter)
    rate, decay = settings.learning_rate, settings.weight_decay
    projection_rate = rate * settings.projection_rate_multiplier
    groups = [
        {"params": rest, "weight_decay": decay},
        {"params": projections, "lr": projection_rate, "weight_decay": decay},
        {"params": inner_rates, "lr": rate * settings.inner_rate_multiplier, "weight_decay": 0.0},
    ]
    optimizers: list[TorchOptimizer] = [
        AdamW(
            [group for group in groups if group["params"]],
            lr=settings.learning_rate,
            betas=settings.betas,
        )
    ]
    if matrices:
        optimizers.append(
            Muon(matrices, lr=settings.muon_learning_rate, weight_decay=settings.weight_decay)
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["full_lr"] = group["lr"]
    return optimizers


def compute_rate_factor(settings: Optimizer, step: int, spent: float) -> float:
    """Return the share of its full value that a rate has.

    Args:
        settings: The recipe's optimizer.
        step: Optimizer steps done.
        spent: Share of the budget that is spent, from 0.
    """
    warm = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    left = max(0.0, 1.0 - spent)
    return warm * (min(1.0, left / settings.decay_share) if settings.decay_share else 1.0)


def set_rates(optimizers: Iterable[TorchOptimizer], factor: float) -> None:
    """Set every group's rate to a share of its full value."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["full_lr"] * factor


def _is_inner_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Return whether a parameter is a matrix of a transformer block or of the memory's map.

    Names of blocks carry their number. The map is among Muon's matrices, since AdamW's steps on it,
    equal in all its elements, would be far too long.
    """
    parts = name.split(".")
    inner = parts[0] == "memory_projection" or any(part.isdigit() for part in parts)
    return parameter.ndim == 2 and inner
