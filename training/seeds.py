"""Random streams that never meet: one for each split, seed and place in a run."""

from typing import Literal, get_args

import numpy as np

Split = Literal["train", "selection", "test"]


def stream(split: Split, seed: int, *place: int) -> np.random.Generator:
    """Return the random generator of a place in a split.

    Args:
        split: `train`, `selection` (choosing between checkpoints) or `test` (final figures).
            Streams of different splits differ for every seed and place.
        seed: The run's or the evaluation's seed, at least 0.
        place: Numbers of the place in the run, for instance step and micro-batch.
    """
    return np.random.default_rng([get_args(Split).index(split), seed, *place])
