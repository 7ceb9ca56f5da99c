"""Work under a lease, which is renewed as long as the work goes on."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from gradmem_core.errors import StoreUnavailableError
from service.cancelling import run_until

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
    return await run_until(work, _keep(renew), LeaseLostError())


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
