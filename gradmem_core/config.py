"""The configuration of a checkpoint's memory: its size, its WRITE, and its limits."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

BlobDtype = Literal["float32", "float16", "int8"]
"Type of a memory's elements in a blob."
Phases = Literal["write", "read", "both"]
"Phases in which an adapter is on."


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
    inner_rate_factor: float = Field(default=1.0, gt=0)
    """Factor of the step sizes per element of a checkpoint that training starts from, applied once
    when it starts."""
    inner_rate_decay: Literal["linear", "geometric"] | None = None
    "Let the step size fall over the steps of a WRITE, with the same mean."
    inner_rate_decay_ratio: float = Field(default=4.0, ge=1)
    "Ratio of the first step's size to the last one's, with `inner_rate_decay`."
    inner_rate_per_step: bool = False
    """Learn a factor of the step size for each of `write_steps` steps, stored as its logarithm;
    later steps use the last."""
    inner_gradient_normalise: bool = False
    """Divide each sample's memory gradient by its root mean square. Training that starts from a
    checkpoint without it scales the step sizes, so that the first step keeps its mean length; with
    `inner_rate_per_step` every step does."""
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

    @model_validator(mode="after")
    def _check_inner_rates(self) -> "MemoryConfig":
        learned = self.inner_learning_rate_per_element
        if self.inner_gradient_normalise and self.inner_gradient_clip is not None:
            raise ValueError(
                "inner_gradient_clip: a normalised gradient has one norm; leave it out"
            )
        if (self.inner_rate_factor != 1 or self.inner_gradient_normalise) and not learned:
            raise ValueError(
                "inner_rate_factor, inner_gradient_normalise: need inner_learning_rate_per_element"
            )
        return self
