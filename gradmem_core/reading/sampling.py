"""Sampling: the choice of an answer's next token from its logits.

Shapes: `N` rows, `V` vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradmem_core.errors import GenerationError


@dataclass(frozen=True)
class Sampling:
    """Settings for the choice of an answer's tokens."""

    max_new_tokens: int
    "Most tokens of the answer, at least 1."
    temperature: float = 0.0
    "0 takes the likeliest token; higher values draw tokens from the tempered distribution."
    top_p: float = 1.0
    "Share of the probability mass that tokens are drawn from, in (0, 1]."
    seed: int = 0
    "Seed of the draws; the same seed gives the same answer in any batch."

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            GenerationError: A setting is out of range.
        """
        if self.max_new_tokens < 1:
            raise GenerationError("max_new_tokens must be at least 1", limit=1)
        if not 0 <= self.temperature <= 100:
            raise GenerationError("temperature must be from 0 to 100")
        if not 0 < self.top_p <= 1:
            raise GenerationError("top_p must be above 0 and at most 1")

    def make_generator(self) -> torch.Generator | None:
        """Make the random generator of an answer; None where no token is drawn."""
        if self.temperature == 0:
            return None
        return torch.Generator().manual_seed(self.seed)


class Sampler:
    """Chooses the next token of each row of a batch by the row's own settings.

    Args:
        settings: Settings of each of the `N` rows.
        generators: Random generator of each row, see `Sampling.make_generator`.
        device: Device of the logits.
    """

    def __init__(
        self,
        settings: Sequence[Sampling],
        generators: Sequence[torch.Generator | None],
        device: torch.device,
    ) -> None:
        self._generators = generators
        self._temperature = torch.tensor([row.temperature for row in settings], device=device)
        self._top_p = torch.tensor([row.top_p for row in settings], device=device)

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Choose the next tokens by their logits `(N, V)`.

        Returns:
            Token ids `(N,)` and their log-probabilities `(N,)`.
        """
        tokens = logits.argmax(dim=-1)
        if any(self._generators):
            tokens = torch.where(self._temperature > 0, self._draw(logits), tokens)
        scores = logits.log_softmax(dim=-1).gather(1, tokens[:, None])[:, 0]
        return tokens, scores

    def _draw(self, logits: Tensor) -> Tensor:
        """Draw from the nucleus of each row by inverse transform (Holtzman et al., 2020)."""
        temperature = self._temperature.clamp(min=1e-4)[:, None]
        ordered, tokens = (logits / temperature).softmax(dim=-1).sort(dim=-1, descending=True)
        before = ordered.cumsum(dim=-1) - ordered
        nucleus = before < self._top_p[:, None]
        nucleus[:, 0] = True  # also where top_p is too small for its dtype
        ordered = ordered * nucleus
        draws = torch.tensor(
            [
                float(torch.rand((), generator=generator)) if generator else 0.0
                for generator in self._generators
            ],
            device=logits.device,
        )
        mass = ordered.cumsum(dim=-1)
        places = (mass <= draws[:, None] * mass[:, -1:]).sum(dim=-1)
        return tokens.gather(1, places[:, None])[:, 0]
