"""A store whose operations are counted, timed and traced."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, cast

from gradmem_core.errors import GradMemError
from service.stores import Store
from service.telemetry import Telemetry


def observe_store(store: Store, telemetry: Telemetry) -> Store:
    """Return a store that does what this one does, and tells the telemetry of it."""
    return cast("Store", _ObservedStore(store, telemetry))


class _ObservedStore:
    """Stands in for a store; every public operation that is awaited is observed."""

    def __init__(self, store: Store, telemetry: Telemetry) -> None:
        self._store = store
        self._telemetry = telemetry

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        attribute = getattr(self._store, name)
        return self._observe(name, attribute) if iscoroutinefunction(attribute) else attribute

    async def __aenter__(self) -> Store:
        await self._store.open()
        return cast("Store", self)

    async def __aexit__(self, *_: object) -> None:
        await self._store.close()

    def _observe(self, name: str, operation: Callable[..., Awaitable[Any]]) -> Any:  # noqa: ANN401
        @wraps(operation)
        async def observed(*args: object, **options: object) -> object:
            started = time.perf_counter()
            outcome = "error"
            try:
                with self._telemetry.span(f"store {name}"):
                    result = await operation(*args, **options)
                outcome = "ok"
                return result
            except GradMemError as error:
                outcome = type(error).__name__
                raise
            except asyncio.CancelledError:
                outcome = "cancelled"
                raise
            finally:
                seconds = time.perf_counter() - started
                self._telemetry.count_store_operation(name, outcome, seconds)

        return observed
