"""Keep what sends a load off the cores of the service, as another machine would."""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager


def part_cores() -> tuple[set[int], set[int]]:
    """Return a core for what sends a load, and the others; both are all there are if that is one.

    Empty where the system does not tell.
    """
    if not hasattr(os, "sched_getaffinity"):
        return set(), set()
    cores = os.sched_getaffinity(0)
    others = cores - {min(cores)}
    return ({min(cores)}, others) if others else (cores, cores)


@contextmanager
def restricted_to(cores: Collection[int]) -> Iterator[None]:
    """Restrict the calling thread, and processes that it starts, to cores within the body.

    Args:
        cores: The cores; empty for no restriction.
    """
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
