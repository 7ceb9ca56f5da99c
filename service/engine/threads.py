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
    chosen = threads or torch.get_num_threads()
    torch.set_num_threads(1)
    return chosen
