"""The engine as what a document is compressed by."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.reading.answers import Answer
from gradmem_core.reading.decoding import Sampling
from gradmem_core.writing.compression import Steps, WrittenPage
from service.engine.engine import Deadline, Engine
from service.engine.work import StepMade


class EngineWorker:
    """A `gradmem_core.writing.compression.Worker` whose work all has one deadline.

    Args:
        engine: Does the work.
        checkpoint: What writes and reads.
        deadline: When all of it has to be done.
        listener: Told on the event loop of every gradient step. Pages that are written later count
            on after those that were written before.
    """

    def __init__(
        self,
        engine: Engine,
        checkpoint: Checkpoint,
        *,
        deadline: Deadline,
        listener: Callable[[StepMade], None] | None,
    ) -> None:
        self._engine = engine
        self._checkpoint = checkpoint
        self._listener = listener
        self._deadline = deadline
        self._written = 0

    async def write_pages(self, pages: Sequence[list[int]], steps: Steps) -> list[WrittenPage]:
        """Write pages (see `Worker`)."""
        told = partial(self._tell, self._written)
        self._written += len(pages)
        return await self._engine.write_pages(
            self._checkpoint, pages, steps, deadline=self._deadline, listener=told
        )

    async def read_pages(
        self, memory: Tensor, queries: Sequence[list[int]], sampling: Sequence[Sampling]
    ) -> list[Answer]:
        """Answer queries (see `Worker`)."""
        return await self._engine.read_pages(
            self._checkpoint, memory, None, queries, sampling, deadline=self._deadline
        )

    def _tell(self, first: int, event: StepMade) -> None:
        if self._listener is not None:
            self._listener(replace(event, page=first + event.page))
