"""Keep long computations off the event loop."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SMALL_BYTES = 2**16
"Most bytes that the event loop itself decodes: about a millisecond's work."


async def call_by_size(size: int, function: Callable[..., T], *arguments: object) -> T:
    """Call a function, in another thread where its input of `size` bytes is large."""
    if size <= SMALL_BYTES:
        return function(*arguments)
    return await asyncio.to_thread(function, *arguments)
