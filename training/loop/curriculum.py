"""Context sizes and write steps: which are trained, and when they change."""

from dataclasses import asdict, dataclass

from training.recipes.schema import Curriculum, Recipe
from training.seeds import stream


@dataclass
class Progress:
    """The place of a run in its curriculum."""

    stage: int = 0
    "Index of the stage."
    accuracy: float = 0.0
    "Moving average of the exact match at the stage's size."

    def state(self) -> dict[str, float]:
        """Return the fields, to save and to restore from."""
        return asdict(self)

    def size(self, curriculum: Curriculum) -> int:
        """Return the stage's context size."""
        return curriculum.stages[self.stage].size

    def draw_size(self, curriculum: Curriculum, seed: int, attempt: int, index: int) -> int:
        """Draw the context size of a micro-batch: the stage's, or a smaller one to rehearse."""
        size = self.size(curriculum)
        rng = stream("train", seed, attempt, index, 0)
        if size == 1 or rng.random() >= curriculum.rehearsal:
            return size
        if curriculum.rehearsed == "by-octave":
            return int(size ** rng.random())
        return int(rng.integers(1, size))

    def record(self, curriculum: Curriculum, accuracy: float) -> bool:
        """Take in the exact match of a micro-batch at the stage's size.

        Returns:
            Whether the next stage starts.
        """
        weight = 1 / curriculum.horizon
        self.accuracy += weight * (accuracy - self.accuracy)
        if self.accuracy < curriculum.stages[self.stage].advance_at:
            return False
        return self._advance(curriculum)

    def follow_budget(self, curriculum: Curriculum, spent: float) -> None:
        """Start every stage whose predecessor has spent its share of the budget."""
        while True:
            until = curriculum.stages[self.stage].until
            if until is None or spent < until or not self._advance(curriculum):
                return

    def _advance(self, curriculum: Curriculum) -> bool:
        """Start the next stage; False where this is the last."""
        if self.stage + 1 == len(curriculum.stages):
            return False
        self.stage += 1
        self.accuracy = 0.0
        return True


def draw_write_steps(recipe: Recipe, spent: float, attempt: int, index: int) -> int:
    """Draw the number of write steps of a micro-batch from the schedule's stage.

    Args:
        recipe: The run's settings.
        spent: Share of the budget that is spent.
        attempt: Optimizer steps before it, skipped ones among them.
        index: Its index in the step.
    """
    if not recipe.schedule:
        return recipe.train_write_steps
    stage = next(stage for stage in recipe.schedule if spent <= stage.until)
    rng = stream("train", recipe.seed, attempt, index, 0, 0)
    return stage.write_steps[rng.integers(len(stage.write_steps))]
