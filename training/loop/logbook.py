"""The log of a run: a progress bar, scalars for TensorBoard, evaluations."""

from pathlib import Path
from statistics import fmean
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from training.loop.selection import SelectionScores
from training.loop.state import RunState
from training.loop.step import StepResult
from training.runs import SCALARS


class Logbook:
    """Logs one session of a run, in the process that reports.

    Args:
        folder: The run's folder.
        state: The run, as it is before the session.
        quiet: Show no progress bar.
    """

    def __init__(self, folder: Path, state: RunState, *, quiet: bool) -> None:
        recipe = state.recipe
        self._by_tokens = recipe.budget_tokens is not None
        self._scalars = SummaryWriter(str(folder / SCALARS))
        self._bar = tqdm(
            total=recipe.budget_tokens or recipe.budget_seconds,
            desc=recipe.name,
            initial=self._position(state),
            unit="tok" if self._by_tokens else "s",
            disable=quiet,
        )

    def record_step(self, state: RunState, result: StepResult) -> None:
        """Log an optimizer step, and move the progress bar.

        Args:
            state: The run after the step.
            result: The step.
        """
        outcomes = result.outcomes
        values = {
            "target_loss": fmean(outcome.target_loss for outcome in outcomes),
            "write_loss": fmean(outcome.write_loss for outcome in outcomes),
            "exact_match": fmean(outcome.exact_match for outcome in outcomes),
            "gradient_norm": result.gradient_norm,
            "rate_factor": result.rate_factor,
            "contexts": float(state.contexts),
            "seconds": state.seconds,
            "skipped_steps": float(state.skipped),
        }
        summary: dict[str, Any] = {
            "step": state.step,
            "loss": f"{result.loss:.3f}",
            "contexts": state.contexts,
            "skipped": state.skipped,
        }
        if state.recipe.curriculum is not None:
            size = state.progress.size(state.recipe.curriculum)
            values["size"] = float(size)
            summary |= {"size": size, "match": f"{state.progress.accuracy:.3f}"}
        for name, value in values.items():
            self._scalars.add_scalar(f"train/{name}", value, state.step)
        self._bar.update(self._position(state) - self._bar.n)
        self._bar.set_postfix(summary)

    def record_scores(self, step: int, scores: SelectionScores) -> None:
        """Log an evaluation: its parts, if there are several, and their mean."""
        place = f"selection/size_{scores.size}/steps_{scores.write_steps}"
        shares = {f"{place}/{part}": score.exact_match for part, score in scores.parts.items()}
        mean = fmean(shares.values())
        if len(shares) == 1:
            shares = {}
        for name, share in {**shares, place: mean}.items():
            self._scalars.add_scalar(name, share, step)
            tqdm.write(f"step {step} {name} {share:.4f}")

    def close(self) -> None:
        """Close the progress bar and the file of scalars."""
        self._bar.close()
        self._scalars.close()

    def _position(self, state: RunState) -> int:
        return state.tokens if self._by_tokens else round(state.seconds)
