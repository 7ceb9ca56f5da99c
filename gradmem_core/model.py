"""The model of WRITE and READ: a backbone, M0 and the write side."""

import copy
import math

import torch
from torch import Tensor, nn

from gradmem_core.adapters import is_adapter
from gradmem_core.backbone import Backbone
from gradmem_core.config import MemoryConfig
from gradmem_core.errors import CheckpointError


class MemoryModel(nn.Module):
    """A backbone with an initial memory and the parameters of WRITE.

    Shapes: `B` batch, `m` memory vectors, `T` tokens, `d` width, `V` vocabulary.

    Args:
        backbone: The causal language model.
        config: Configuration of the memory.
        seed: Seed of M0's initial values.
        merged: Whether the adapter is already merged into the backbone's weights.

    Raises:
        CheckpointError: The configuration needs more positions than the backbone has.
    """

    def __init__(
        self, backbone: Backbone, config: MemoryConfig, *, seed: int, merged: bool = False
    ) -> None:
        super().__init__()
        _check_positions(backbone, config)
        self.backbone = backbone
        self.config = config
        shape = (config.memory_tokens, backbone.width)
        generator = torch.Generator().manual_seed(seed)
        scale = float(backbone.output_weight.detach().std())
        self.initial_memory = nn.Parameter(scale * torch.randn(shape, generator=generator))
        self.write_head = _copy_head(backbone) if config.write_head else None
        if config.adapter is not None and not merged:
            backbone.add_adapter(config.adapter, seed=seed)
        self.memory_projection = make_identity(backbone.width) if config.memory_projection else None
        self.token_weight = _make_zero_map(backbone.width) if config.token_weights else None
        self.log_inner_learning_rate = (
            nn.Parameter(torch.full(shape, math.log(config.inner_learning_rate)))
            if config.inner_learning_rate_per_element
            else None
        )

    def with_backbone(self, backbone: Backbone) -> "MemoryModel":
        """Return a model over another backbone that shares M0 and the write side's parameters.

        Args:
            backbone: A backbone of the same width and vocabulary.
        """
        other = copy.copy(self)
        other._modules = self._modules | {"backbone": backbone}
        return other

    def inner_learning_rate(self) -> Tensor | float:
        """Return the step size of WRITE: a number, or one for each memory element `(m, d)`."""
        if self.log_inner_learning_rate is None:
            return self.config.inner_learning_rate
        return self.log_inner_learning_rate.exp()

    def prefix(self, memory: Tensor) -> Tensor:
        """Map memories to inputs of the backbone: `(B, m, d)` → `(B, m, d)` in its dtype."""
        if self.memory_projection is not None:
            memory = self.memory_projection(memory)
        return memory.to(self.backbone.dtype)

    def write_logits(self, hidden: Tensor) -> Tensor:
        """Apply the output head of WRITE: `(..., d)` → `(..., V)`."""
        if self.write_head is None:
            return self.backbone.logits(hidden)
        return self.write_head(hidden)  # type: ignore[no-any-return]

    def token_weights(self, hidden: Tensor) -> Tensor | float:
        """Weigh tokens in WRITE by their hidden states: `(B, T, d)` → `(B, T)`, from 0 to 2."""
        if self.token_weight is None:
            return 1.0
        return 2 * torch.sigmoid(self.token_weight(hidden).squeeze(-1))

    def write_side(self) -> dict[str, Tensor]:
        """Return all tensors that are not the backbone's own by name, an adapter's included."""
        return {
            name: tensor
            for name, tensor in self.state_dict().items()
            if is_adapter(name) or not name.startswith("backbone.")
        }

    def train_write_side(self) -> None:
        """Make the write side trainable, an adapter included, and freeze the backbone's weights."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(is_adapter(name) or not name.startswith("backbone."))


def _check_positions(backbone: Backbone, config: MemoryConfig) -> None:
    longest = max(config.max_context_tokens, config.max_query_tokens + config.max_answer_tokens)
    if config.memory_tokens + longest > backbone.max_positions:
        raise CheckpointError(
            f"{config.memory_tokens} memory vectors and {longest} tokens need more positions than"
            f" the backbone's {backbone.max_positions}; lower the limits or use another backbone",
            limit=backbone.max_positions,
        )


def _copy_head(backbone: Backbone) -> nn.Linear:
    """Make a head that starts as a copy of the language-model head (GradMem, section on WRITE)."""
    head = nn.Linear(backbone.width, backbone.vocabulary_size, bias=False)
    head.weight = nn.Parameter(backbone.output_weight.detach().clone())
    return head


def _make_zero_map(width: int) -> nn.Linear:
    """Make a linear map to a number that starts at zero."""
    linear = nn.Linear(width, 1)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def make_identity(width: int) -> nn.Linear:
    """Make a linear map with a bias that starts as the identity."""
    projection = nn.Linear(width, width)
    nn.init.eye_(projection.weight)
    nn.init.zeros_(projection.bias)
    return projection
