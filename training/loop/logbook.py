"""The books of a run: a progress bar, scalars for TensorBoard, evaluations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from training.evaluation.scores import Score
from training.loop.step import Outcome
from training.recipe import Recipe


class Logbook:
    """Keeps the books of one run, in the process that reports.

    Args:
        recipe: What is trained.
        folder: Of the run.
        tokens: Context tokens that were trained before.
        seconds: Seconds before.
        quiet: Show no progress bar.
    """

    def __init__(
        self, recipe: Recipe, folder: Path, *, tokens: int, seconds: float, quiet: bool
    ) -> None:
        self._by_tokens = recipe.budget_tokens is not None
        self._scalars = SummaryWriter(str(folder / "scalars"))
        self._bar = tqdm(
            total=recipe.budget_tokens or recipe.budget_seconds,
            initial=tokens if self._by_tokens else round(seconds),
            unit="tok" if self._by_tokens else "s",
            disable=quiet,
        )

    def record_step(
        self, step: int, outcomes: Sequence[Outcome], values: Mapping[str, float]
    ) -> None:
        """Log what the micro-batches of an optimizer step gave, and other values of it."""
        means = {
            "target_loss": fmean(outcome.target_loss for outcome in outcomes),
            "write_loss": fmean(outcome.write_loss for outcome in outcomes),
            "exact_match": fmean(outcome.exact_match for outcome in outcomes),
        }
        for name, value in {**means, **values}.items():
            self._scalars.add_scalar(f"train/{name}", value, step)

    def show(self, *, tokens: int, seconds: float, summary: Mapping[str, object]) -> None:
        """Move the progress bar."""
        self._bar.update((tokens if self._by_tokens else round(seconds)) - self._bar.n)
        self._bar.set_postfix(summary)

    def record_scores(
        self, step: int, size: int, write_steps: int, scores: Mapping[str, Score]
    ) -> None:
        """Log an evaluation: its parts, where there are several, and their mean."""
        place = f"selection/size_{size}/steps_{write_steps}"
        shares = {f"{place}/{part}": score.exact_match for part, score in scores.items()}
        if len(shares) == 1:
            shares = {}
        for name, share in {**shares, place: fmean(s.exact_match for s in scores.values())}.items():
            self._scalars.add_scalar(name, share, step)
            tqdm.write(f"step {step} {name} {share:.4f}")

    def close(self) -> None:
        """End the books."""
        self._bar.close()
        self._scalars.close()
