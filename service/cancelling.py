"""Cancel work that nobody wants any more."""

import asyncio
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from gradmem_core.errors import GradMemError

T = TypeVar("T")


async def run_until(work: Awaitable[T], end: Coroutine[Any, Any, object], error: Exception) -> T:
    """Await work, and cancel it if something else ends first.

    Args:
        work: The work.
        end: What ends it; cancelled when the work is done.
        error: Raised when `end` comes first, after the work has ended.
    """
    task = asyncio.ensure_future(work)
    ending = asyncio.create_task(end)
    try:
        await asyncio.wait({task, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise error
        return task.result()
    finally:
        ending.cancel()
        task.cancel()
        await asyncio.gather(ending, return_exceptions=True)
        with suppress(asyncio.CancelledError, GradMemError):
            await task
