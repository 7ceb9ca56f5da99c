"""A way to the device: through HTTP (`http`), or the engine in this process (`inprocess`)."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from benchmarks.serving.documents import Document
from benchmarks.serving.load import Request
from benchmarks.serving.results import Load, Via


class Target(Protocol):
    """Where requests go."""

    via: Via

    def writes(self, documents: Sequence[Document], *, steps: int) -> list[Request]:
        """A WRITE for each document."""

    async def reads(self, documents: Sequence[Document]) -> list[Request]:
        """Write the documents; a READ of one query for each."""

    def saturated(
        self, documents: Sequence[Document], *, steps: int, concurrency: int, warm_up: float
    ) -> AbstractAsyncContextManager[list[Load]]:
        """Keep writers busy while the body runs, which begins after the warm-up (seconds).

        Gives a list that holds what the writers did once the body is done.
        """
