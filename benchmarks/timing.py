"""Fair timing, and the memory that work needs."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from torch.profiler import ProfilerActivity, profile

Work = Callable[[], object]


def alternate(works: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    """Time works in turn, so that what else the machine does meets all of them.

    Each is done once before, untimed.

    Args:
        works: The works by name.
        rounds: Number of rounds; each begins with another work.

    Returns:
        Seconds of each, by round.
    """
    for work in works.values():
        work()
    names = list(works)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            started = time.perf_counter()
            works[name]()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Return the median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def peak_bytes(work: Work) -> int:
    """Return the most bytes of CPU tensors that a work allocates at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    assert profiled.profiler is not None
    assert profiled.profiler.kineto_results is not None
    events = profiled.profiler.kineto_results.events()
    changes = sorted(
        (event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"
    )
    held = most = 0
    for _, change in changes:
        held += change
        most = max(most, held)
    return most
