"""The engine as what a document is compressed by."""

from collections.abc import Callable, Sequence

from torch import Tensor

from gradmem_core.answers import Answer
from gradmem_core.checkpoint import Checkpoint
from gradmem_core.compress import Steps, WrittenPage
from gradmem_core.decode import Sampling
from service.engine.engine import Engine
from service.engine.work import StepMade


class EngineWorker:
    """A `gradmem_core.compress.Worker` whose work all has one deadline.

    Args:
        engine: Does the work.
        checkpoint: What writes and reads.
        seconds: Longest that all of it may take; the engine's own limit where that is shorter.
        listener: Told on the event loop of every gradient step.
    """

    def __init__(
        self,
        engine: Engine,
        checkpoint: Checkpoint,
        *,
        seconds: float | None,
        listener: Callable[[StepMade], None] | None,
    ) -> None:
        self._engine = engine
        self._checkpoint = checkpoint
        self._listener = listener
        self._deadline = engine.deadline(seconds)

    async def write_pages(self, pages: Sequence[list[int]], steps: Steps) -> list[WrittenPage]:
        """Write pages (see `Worker`)."""
        return await self._engine.write_pages(
            self._checkpoint, pages, steps, deadline=self._deadline, listener=self._listener
        )

    async def read_pages(
        self, memory: Tensor, queries: Sequence[list[int]], sampling: Sequence[Sampling]
    ) -> list[Answer]:
        """Answer queries (see `Worker`)."""
        return await self._engine.read_pages(
            self._checkpoint, memory, None, queries, sampling, deadline=self._deadline
        )
