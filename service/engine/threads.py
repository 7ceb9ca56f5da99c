"""Which thread of a process may use its cores."""

import torch


def leave_cores_to_the_engine(threads: int | None) -> int:
    """Let the calling thread compute on one core only; call it before it computes anything.

    Two threads that compute have more OpenMP threads between them than there are cores. libgomp
    then lets them sleep where they otherwise spin for each other: on two cores a gradient step
    took twice as long (docs/LOG.md).

    Args:
        threads: CPU threads that the engine was given; torch's own choice when None.

    Returns:
        Threads for the engine.
    """
    usual = use_threads(1)
    return threads or usual


def use_threads(threads: int | None) -> int:
    """Let the calling thread compute with so many threads, whatever others are told later.

    Returns:
        How many it had; None leaves it at that.
    """
    # Asked first: at its first look a thread takes over what any thread was told last.
    usual = torch.get_num_threads()
    torch.set_num_threads(threads or usual)
    return usual
