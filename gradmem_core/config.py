"""The configuration of a checkpoint's memory: its size, its WRITE, and its limits."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

BlobDtype = Literal["float32", "float16", "int8"]
"Type of a memory's elements in a blob."
Phases = Literal["write", "read", "both"]
"Phases in which an adapter is on."

EmbedsForm = Literal["safetensors", "completions", "chat"]
"""Forms of exported vectors: a safetensors file or, for vLLM's server, JSON with the field of a
request to `/v1/completions` or with a part of a chat message's content."""


class AdapterConfig(BaseModel):
    """Low-rank adapters on the backbone's linear layers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rank: int = Field(ge=1)
    "Rank of each layer's low-rank product."
    phases: Phases
    "Phases in which they are on; adapters of both are merged into the weights for serving."


class MemoryConfig(BaseModel):
    """The configuration of a checkpoint's memory, stored in the checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    memory_tokens: int = Field(ge=1)
    "Vectors of a page of memory (m)."
    write_steps: int = Field(ge=1)
    "Gradient steps of a WRITE if the caller sets no number (K)."
    max_write_steps: int = Field(default=20, ge=1)
    "Most gradient steps that a caller may request."
    inner_learning_rate: float = Field(gt=0)
    "Step size of WRITE (alpha); the initial value if it is learned per element."
    inner_learning_rate_per_element: bool = False
    "Learn a step size for every element of the memory, stored as its logarithm."
    inner_gradient_clip: float | None = Field(default=None, gt=0)
    "Largest norm of a sample's memory gradient in a step; None for no limit."
    write_head: bool = True
    "Separate output head for WRITE; without it WRITE uses the language-model head."
    token_weights: bool = False
    """Weigh each token's reconstruction loss in WRITE by a learned function of its hidden state,
    from 0 to 2, so that WRITE stores what matters."""
    adapter: AdapterConfig | None = None
    "Adapters on the backbone's linear layers; None for none."
    memory_projection: bool = False
    "Linear map of the memory before it enters the backbone, at WRITE and at READ."
    max_context_tokens: int = Field(ge=1)
    "Longest context that the checkpoint was trained for, in tokens."
    page_tokens: int | None = Field(default=None, ge=1)
    """Longest page of a document, in tokens. With None the pages of a list of records have up to
    `max_context_tokens`, and a text is one page. Shorter pages are read more reliably and take more
    memory."""
    max_query_tokens: int = Field(ge=1)
    "Longest query, in tokens."
    max_answer_tokens: int = Field(ge=1)
    "Most tokens of a generated answer."
