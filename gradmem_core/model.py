"""The model that is written to and read from: a backbone, M0 and the write side."""

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
        config: What a memory is.
        seed: Seed of M0's random start.
        merged: The backbone's weights hold the adapter already.

    Raises:
        CheckpointError: The configuration asks for more positions than the backbone has.
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
        self.write_head = _head_like(backbone) if config.write_head else None
        if config.adapter is not None and not merged:
            backbone.add_adapter(config.adapter, seed=seed)
        self.memory_projection = make_identity(backbone.width) if config.memory_projection else None
        self.token_weight = _zeros(backbone.width) if config.token_weights else None
        self.log_inner_learning_rate = (
            nn.Parameter(torch.full(shape, math.log(config.inner_learning_rate)))
            if config.inner_learning_rate_per_element
            else None
        )

    def with_backbone(self, backbone: Backbone) -> "MemoryModel":
        """The same memory and write side, the very parameters, over another backbone.

        Args:
            backbone: Of the same width and vocabulary.
        """
        other = copy.copy(self)
        other._modules = self._modules | {"backbone": backbone}
        return other

    def inner_learning_rate(self) -> Tensor | float:
        """The step size of WRITE: one number, or one per memory element `(m, d)`."""
        if self.log_inner_learning_rate is None:
            return self.config.inner_learning_rate
        return self.log_inner_learning_rate.exp()

    def prefix(self, memory: Tensor) -> Tensor:
        """What enters the backbone for a memory: `(B, m, d)` → `(B, m, d)` in its dtype."""
        if self.memory_projection is not None:
            memory = self.memory_projection(memory)
        return memory.to(self.backbone.dtype)

    def write_logits(self, hidden: Tensor) -> Tensor:
        """Apply the head that WRITE scores with: `(..., d)` → `(..., V)`."""
        if self.write_head is None:
            return self.backbone.logits(hidden)
        return self.write_head(hidden)  # type: ignore[no-any-return]

    def token_weights(self, hidden: Tensor) -> Tensor | float:
        """How much WRITE cares for tokens with these hidden states: `(B, T, d)` → `(B, T)`."""
        if self.token_weight is None:
            return 1.0
        return 2 * torch.sigmoid(self.token_weight(hidden).squeeze(-1))

    def write_side(self) -> dict[str, Tensor]:
        """Every tensor that is not the backbone's own, by name, the adapter's among them."""
        return {
            name: tensor
            for name, tensor in self.state_dict().items()
            if is_adapter(name) or not name.startswith("backbone.")
        }

    def train_write_side(self) -> None:
        """Freeze the backbone's own weights, and nothing else."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(is_adapter(name) or not name.startswith("backbone."))


def _check_positions(backbone: Backbone, config: MemoryConfig) -> None:
    longest = max(config.max_context_tokens, config.max_query_tokens + config.max_answer_tokens)
    if config.memory_tokens + longest > backbone.max_positions:
        raise CheckpointError(
            f"{config.memory_tokens} memory vectors and {longest} tokens need more positions than"
            f" the backbone's {backbone.max_positions}; lower the limits or take a longer backbone",
            limit=backbone.max_positions,
        )


def _head_like(backbone: Backbone) -> nn.Linear:
    """A head that starts as a copy of the language-model head (GradMem, section on WRITE)."""
    head = nn.Linear(backbone.width, backbone.vocabulary_size, bias=False)
    head.weight = nn.Parameter(backbone.output_weight.detach().clone())
    return head


def _zeros(width: int) -> nn.Linear:
    """A map to one number that starts at zero."""
    linear = nn.Linear(width, 1)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def make_identity(width: int) -> nn.Linear:
    """A linear map with a bias that changes nothing at the start."""
    projection = nn.Linear(width, width)
    nn.init.eye_(projection.weight)
    nn.init.zeros_(projection.bias)
    return projection
