"""Computations in a process of their own.

Two threads of one process that both compute have more OpenMP threads between them than there are
cores. libgomp then lets them sleep where they otherwise spin for each other, and two cores are no
faster than one. So the process that runs the engine computes nothing but what the engine does.
"""

import asyncio
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Concatenate, ParamSpec, TypeVar

import torch

from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint

P = ParamSpec("P")
T = TypeVar("T")


class Apart:
    """Runs functions of a checkpoint in another process, one at a time.

    Args:
        pool: The process.
        checkpoint: A folder or a bundled name.
    """

    def __init__(self, pool: ProcessPoolExecutor, checkpoint: str) -> None:
        self._pool = pool
        self._checkpoint = checkpoint

    async def run(
        self, function: Callable[Concatenate[Checkpoint, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call a module's function with the checkpoint, then the arguments.

        Raises:
            Exception: What the function raises.
        """
        call = functools.partial(_called, function, self._checkpoint, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)


@contextmanager
def apart(checkpoint: str, *, threads: int | None) -> Iterator[Apart]:
    """A process that lasts as long as the body.

    Args:
        checkpoint: A folder or a bundled name.
        threads: CPU threads; torch's own choice when None.
    """
    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=_begin, initargs=(threads,)
    ) as pool:
        yield Apart(pool, checkpoint)


def _begin(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


def _called(
    function: Callable[Concatenate[Checkpoint, P], T],
    checkpoint: str,
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    return function(_loaded(checkpoint), *args, **kwargs)


_loaded = functools.cache(load_checkpoint)
