"""The requests that clients wait for, which end together when the time to stop has run out."""

import asyncio
from typing import Any

from gradmem_core.errors import EngineStoppedError


class WaitingRequests:
    """The tasks of requests without a whole response.

    A task that `end` has cancelled answers with `error`.
    """

    def __init__(self) -> None:
        self.ended = False
        "True once all of them were told to end."
        self._tasks: set[asyncio.Task[Any]] = set()

    def add(self, task: "asyncio.Task[Any]") -> None:
        """Take a task on."""
        self._tasks.add(task)
        if self.ended:
            task.cancel()

    def discard(self, task: "asyncio.Task[Any]") -> None:
        """Forget a task that has its response."""
        self._tasks.discard(task)

    def end(self) -> None:
        """Cancel all tasks, and those that are added later."""
        self.ended = True
        for task in list(self._tasks):
            task.cancel()

    @property
    def error(self) -> EngineStoppedError:
        """The error of a request that was ended."""
        return EngineStoppedError("the service stopped before the request was done")
