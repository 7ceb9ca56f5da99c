"""What a memory of a checkpoint is: its size, how it is written, and for which lengths."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

BlobDtype = Literal["float32", "float16", "int8"]
"How a blob holds a memory's elements."
Phases = Literal["write", "read", "both"]
"When an adapter is on."


class AdapterConfig(BaseModel):
    """Low-rank adapters on the backbone's linear layers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(ge=1)
    "Rank of each layer's product."
    phases: Phases
    "When they are on; at both they are part of the weights and cost nothing when serving."


class MemoryConfig(BaseModel):
    """Everything about a checkpoint's memory that is not a tensor. Stored inside the checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory_tokens: int = Field(ge=1)
    "Vectors in a memory (m)."
    write_steps: int = Field(ge=1)
    "Gradient steps of a WRITE when the caller names no number (K)."
    max_write_steps: int = Field(default=20, ge=1)
    "Most gradient steps that a caller may ask for."
    inner_learning_rate: float = Field(gt=0)
    "Step size of WRITE (alpha); the starting value where it is learned per element."
    inner_learning_rate_per_element: bool = False
    "Learn one step size for every element of the memory, kept as its logarithm."
    inner_gradient_clip: float | None = Field(default=None, gt=0)
    "Largest norm of one sample's memory gradient in a step; None for no limit."
    write_head: bool = True
    "An output head of its own for WRITE; without it WRITE uses the language-model head."
    token_weights: bool = False
    """Weigh each token's reconstruction loss in WRITE by a learned function of its hidden state,
    from 0 to 2: what is worth storing."""
    adapter: AdapterConfig | None = None
    "Adapters on the backbone's linear layers; None for none."
    memory_projection: bool = False
    "A linear map on the memory before it enters the backbone, at WRITE and at READ."
    max_context_tokens: int = Field(ge=1)
    "Longest document that the checkpoint was trained for, in tokens."
    page_tokens: int | None = Field(default=None, ge=1)
    """Longest page that a document is split into, in tokens; None for `max_context_tokens` in lists
    of records, and for texts that are one page whole. Shorter pages are read more reliably and take
    more memory."""
    max_query_tokens: int = Field(ge=1)
    "Longest query, in tokens."
    max_answer_tokens: int = Field(ge=1)
    "Most tokens of a generated answer."
