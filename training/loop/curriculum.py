"""Which context sizes are trained, and when they grow."""

from dataclasses import asdict, dataclass

from training.recipe import Curriculum
from training.seeds import stream


@dataclass
class Progress:
    """Where a run stands in its curriculum."""

    stage: int = 0
    "Index of the stage."
    accuracy: float = 0.0
    "Moving average of the exact match at the stage's size."

    def state(self) -> dict[str, float]:
        """The fields, to save and to restore from."""
        return asdict(self)

    def size(self, curriculum: Curriculum) -> int:
        """The stage's context size."""
        return curriculum.stages[self.stage].size

    def micro_batch_size(self, curriculum: Curriculum, seed: int, step: int, micro: int) -> int:
        """The context size of one micro-batch: the stage's, or a smaller one to rehearse."""
        size = self.size(curriculum)
        rng = stream("train", seed, step, micro, 0)
        if size > 1 and rng.random() < curriculum.rehearsal:
            return int(rng.integers(1, size))
        return size

    def record(self, curriculum: Curriculum, accuracy: float) -> bool:
        """Take in the exact match of a micro-batch at the stage's size.

        Returns:
            Whether the next stage starts.
        """
        weight = 1 / curriculum.horizon
        self.accuracy += weight * (accuracy - self.accuracy)
        last = self.stage + 1 == len(curriculum.stages)
        if last or self.accuracy < curriculum.stages[self.stage].advance_at:
            return False
        self.stage += 1
        self.accuracy = 0.0
        return True
