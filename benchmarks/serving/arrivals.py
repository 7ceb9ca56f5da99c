"""Open-loop load: moments at which requests are sent, whether or not others are answered."""

from collections.abc import Iterator

import numpy as np


def random_times(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Yield the moments of a Poisson process, from 0.

    Args:
        rate: Mean number of moments a second.
        seconds: End of the last.
        seed: Seed of the moments.
    """
    draws = np.random.default_rng(seed)
    due = draws.exponential(1 / rate)
    while due < seconds:
        yield due
        due += draws.exponential(1 / rate)
