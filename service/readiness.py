"""Know at any moment which part of the service cannot do its work."""

import asyncio
import logging
import time
from contextlib import suppress
from contextvars import Context
from types import TracebackType
from typing import Self

from gradmem_core.errors import NotReadyError, StoreUnavailableError
from service.engine import Engine
from service.log import log_failure
from service.stores import Store, Usage
from service.telemetry import Telemetry

PROBE_SECONDS = 5.0
"Time between two probes of the store."
RETRY_SECONDS = 1.0
"Time between two probes while the store fails."
ANSWER_SECONDS = 6.0
"Longest time of a probe."
FRESH_SECONDS = 1.0
"Age up to which a probe that the store passed lets a WRITE begin."
USAGE_SECONDS = 30.0
"Time between two sums of what the store holds."
STALL_SECONDS = 60.0
"Longest step on the device before the engine counts as stalled."

logger = logging.getLogger(__name__)


class Readiness:
    """The state of the store, which a probe in the background keeps, and of the engine.

    Use it as `async with readiness:`, within which the store is open and the engine started.

    Args:
        engine: The engine.
        store: The store of the memories.
        telemetry: Told from time to time what is in the store.
    """

    def __init__(self, engine: Engine, store: Store, telemetry: Telemetry) -> None:
        self._engine = engine
        self._store = store
        self._telemetry = telemetry
        self._usage_due_at = 0.0
        self._fault: StoreUnavailableError | None = None
        self._probed_at = -FRESH_SECONDS
        self._probe: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None

    def check(self) -> None:
        """Check that every part works, from what is known: the answer takes no time.

        Raises:
            NotReadyError: A part does not work; the error names each such part.
        """
        faults = []
        if not self._engine.alive:
            faults.append("engine: the device is lost; restart the service")
        elif (seconds := self._engine.step_seconds) > STALL_SECONDS:
            faults.append(
                f"engine: the device has been in one step, or silent, for {seconds:.0f} s"
            )
        if self._fault is not None:
            faults.append(f"store: {self._fault.message}")
        if faults:
            raise NotReadyError("; ".join(faults))

    async def check_store(self) -> None:
        """Check that the store takes memories, before work is spent on one.

        Raises:
            StoreUnavailableError: It does not.
        """
        age = time.monotonic() - self._probed_at
        if self._fault is not None or age > FRESH_SECONDS:
            await self._probe_once()
        if self._fault is not None:
            raise type(self._fault)(self._fault.message)

    async def __aenter__(self) -> Self:
        await self._probe_once()
        self._keeper = asyncio.create_task(self._keep_probing())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in (self._keeper, self._probe):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def _keep_probing(self) -> None:
        while True:
            await self._report_usage()
            await asyncio.sleep(PROBE_SECONDS if self._fault is None else RETRY_SECONDS)
            await self._probe_once()

    async def _report_usage(self) -> None:
        """Tell the telemetry what is in the store; while the store fails, that it is unknown."""
        if self._fault is None and time.monotonic() < self._usage_due_at:
            return
        usage = await self._find_usage() if self._fault is None else None
        self._telemetry.observe_usage(usage)
        self._usage_due_at = 0.0 if usage is None else time.monotonic() + USAGE_SECONDS

    async def _find_usage(self) -> Usage | None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._store.total_usage()
        except (StoreUnavailableError, TimeoutError):  # the next probe tells more
            return None
        except Exception as error:  # the probes have to go on
            log_failure(logger, "the sum of the store's usage", error)
            return None

    async def _probe_once(self) -> None:
        """Probe the store; whoever asks meanwhile waits for the same probe."""
        if self._probe is None or self._probe.done():
            # Its log lines and spans belong to no request, not even to the one that began it.
            self._probe = asyncio.create_task(self._probe_store(), context=Context())
        await asyncio.shield(self._probe)

    async def _probe_store(self) -> None:
        fault = await self._find_fault()
        if (fault and fault.message) != (self._fault and self._fault.message):
            logger.warning("store: %s", fault.message if fault else "works again")
        self._fault, self._probed_at = fault, time.monotonic()

    async def _find_fault(self) -> StoreUnavailableError | None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._store.probe()
        except StoreUnavailableError as error:
            return error
        except TimeoutError:
            return StoreUnavailableError(f"the store did not answer within {ANSWER_SECONDS:g} s")
        except Exception as error:  # the probes have to go on
            log_failure(logger, "the probe of the store", error)
            return StoreUnavailableError("the store failed in an unforeseen way; see the log")
        return None
