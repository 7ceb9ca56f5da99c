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


class _Observed:
    """Stands in for a part of a store; every public operation that is awaited is observed.

    Args:
        part: The part.
        telemetry: Metrics and traces of its operations.
        prefix: Beginning of their names there.
    """

    def __init__(self, part: object, telemetry: Telemetry, prefix: str = "") -> None:
        self._part = part
        self._telemetry = telemetry
        self._prefix = prefix

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        attribute = getattr(self._part, name)
        if iscoroutinefunction(attribute):
            return self._observe(self._prefix + name, attribute)
        return attribute

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


class _ObservedStore(_Observed):
    """Stands in for a store."""

    def __init__(self, store: Store, telemetry: Telemetry) -> None:
        super().__init__(store, telemetry)
        self._store = store
        self.records = _Observed(store.records, telemetry, "records.")
        self.jobs = _Observed(store.jobs, telemetry, "jobs.")

    async def __aenter__(self) -> Store:
        await self._store.open()
        return cast("Store", self)

    async def __aexit__(self, *_: object) -> None:
        await self._store.close()
