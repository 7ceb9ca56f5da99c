"""RMT: memory vectors written by forward passes.

Recurrent Memory Transformer, Bulatov et al., NeurIPS 2022, arXiv 2207.06881, in the form that
GradMem compares with (arXiv 2603.13875): one segment of context, maps of their own for the memory
that enters writing and reading.
"""

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from gradmem_core.backbone import Backbone
from gradmem_core.errors import InputError
from gradmem_core.model import make_identity
from gradmem_core.reading.scoring import read_hidden
from training.writers.base import LengthLimits, Writer, WriterState, WriteSteps


class RmtConfig(LengthLimits):
    """The configuration of an RMT memory."""

    memory_tokens: int = Field(ge=1)
    "Vectors in a memory (m)."
    write_steps: int = Field(default=1, ge=1)
    "Passes over the context by default."
    max_write_steps: int = Field(default=5, ge=1)
    "Most passes over the context."


class RmtModel(nn.Module):
    """A backbone with an initial memory and two maps.

    Args:
        backbone: The causal language model.
        config: The configuration of the memory.
        seed: Seed of the initial memory.
    """

    def __init__(self, backbone: Backbone, config: RmtConfig, *, seed: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config
        generator = torch.Generator().manual_seed(seed)
        scale = float(backbone.output_weight.detach().std())
        shape = (config.memory_tokens, backbone.width)
        self.initial_memory = nn.Parameter(scale * torch.randn(shape, generator=generator))
        self.write_projection = make_identity(backbone.width)
        self.read_projection = make_identity(backbone.width)

    def prefix(self, memory: Tensor) -> Tensor:
        """Map a memory to the vectors that READ puts first: `(B, m, d)` → `(B, m, d)`."""
        return cast("Tensor", self.read_projection(memory))


@dataclass(frozen=True)
class Rmt(Writer):
    """Keeps the hidden states of the memory vectors that follow the context."""

    kind: ClassVar[str] = "rmt"
    model: RmtModel

    def write(
        self, context_ids: Tensor, lengths: Tensor, steps: WriteSteps, *, train: bool
    ) -> WriterState:
        """Write contexts (see `Writer.write`)."""
        model = self.model
        passes = check_passes(steps, model.config.max_write_steps)
        with torch.set_grad_enabled(train):
            embedded = model.backbone.embed(context_ids)
            mask, positions = mask_around(lengths, embedded.shape[1], model.config.memory_tokens)
            memory = model.initial_memory.expand(len(context_ids), -1, -1)  # (B, m, d)
            for _ in range(passes):
                memory = self._run_pass(memory, embedded, mask, positions)
        return WriterState((memory,), memory[0].numel())

    def hidden(self, state: WriterState, query_ids: Tensor) -> Tensor:
        """Run queries through the backbone (see `Writer.hidden`)."""
        (memory,) = state.tensors
        return read_hidden(self.model, memory, query_ids)[:, :, 1:]

    def _run_pass(
        self, memory: Tensor, embedded: Tensor, mask: Tensor, positions: Tensor
    ) -> Tensor:
        """Run a pass over `[M; context; M]` and return the new memory."""
        mapped = self.model.write_projection(memory)
        inputs = torch.cat([mapped, embedded, mapped], dim=1)  # (B, m + T + m, d)
        hidden = self.model.backbone.hidden(inputs, mask=mask, positions=positions)
        return hidden[:, -memory.shape[1] :]


def mask_around(lengths: Tensor, tokens: int, size: int) -> tuple[Tensor, Tensor]:
    """Build the mask and the positions of `[M; context; M]`, in which padding takes no part.

    Args:
        lengths: Tokens of each context, `(B,)`.
        tokens: Padded length (T).
        size: Memory vectors (m).

    Returns:
        The attention mask, boolean `(B, 1, S, S)`, and position ids `(B, S)` that skip padding,
        with `S = m + T + m`.
    """
    place = torch.arange(tokens + 2 * size, device=lengths.device)
    padding = (place >= size + lengths[:, None]) & (place < size + tokens)  # (B, S)
    causal = place[:, None] >= place  # (S, S)
    itself = place[:, None] == place  # a row that sees nothing would have no softmax
    mask = (causal & ~padding[:, None]) | itself
    return mask[:, None], ((~padding).cumsum(dim=1) - 1).clamp(min=0)


def check_passes(steps: WriteSteps, most: int) -> int:
    """Return the number of forward passes, if it is allowed.

    Raises:
        InputError: It is not a number from 1 to `most`.
    """
    if steps == "auto" or not 1 <= steps <= most:
        raise InputError(f"write steps {steps}: a forward writer takes 1 to {most} passes")
    return steps
