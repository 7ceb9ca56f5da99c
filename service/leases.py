"""Work under a lease, which is renewed as long as the work goes on."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from gradmem_core.errors import StoreUnavailableError

T = TypeVar("T")

LEASE_SECONDS = 20.0
"Time after which others may go on with work whose process has not been heard of."
RENEWALS = 4
"Renewals of a lease within its time."


class LeaseLostError(Exception):
    """A lease ran out, and others may have taken the work over."""


async def run_leased(work: Awaitable[T], renew: Callable[[], Awaitable[bool]]) -> T:
    """Do work, and renew its lease meanwhile; cancel it where the lease is lost.

    Args:
        work: The work.
        renew: Extends the lease by `LEASE_SECONDS`; returns False where it is lost.

    Raises:
        LeaseLostError: The lease was lost before the work was done.
    """
    task = asyncio.ensure_future(work)
    keeper = asyncio.create_task(_keep(renew))
    try:
        await asyncio.wait({task, keeper}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise LeaseLostError
        return task.result()
    finally:
        await _cancel(task, keeper)


async def _keep(renew: Callable[[], Awaitable[bool]]) -> None:
    """Renew a lease until it is lost."""
    renewed_at = time.monotonic()
    while time.monotonic() - renewed_at < LEASE_SECONDS:
        await asyncio.sleep(LEASE_SECONDS / RENEWALS)
        began = time.monotonic()
        with suppress(StoreUnavailableError):
            if not await renew():
                return
            renewed_at = began


async def _cancel(*tasks: "asyncio.Future[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
