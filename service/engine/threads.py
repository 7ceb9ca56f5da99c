"""Share the cores of a process among its threads."""

import torch


def leave_cores_to_the_engine(threads: int | None) -> int:
    """Restrict the calling thread to one core; call this before it computes anything.

    Two computing threads have more OpenMP threads between them than there are cores. libgomp then
    puts them to sleep where they would otherwise spin: on two cores a gradient step took twice as
    long (docs/LOG.md).

    Args:
        threads: CPU threads of the engine; torch's own choice when None.

    Returns:
        Threads for the engine.
    """
    usual = use_threads(1)
    return threads or usual


def use_threads(threads: int | None) -> int:
    """Set the number of threads the calling thread computes with, whatever others set later.

    Args:
        threads: CPU threads; None leaves the number as it is.

    Returns:
        The number before.
    """
    # Read first: at its first look a thread adopts the number that any thread set last.
    usual = torch.get_num_threads()
    torch.set_num_threads(threads or usual)
    return usual
