"""The engine as the worker that compresses the document of a request."""

from collections.abc import Callable, Sequence

from torch import Tensor

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.reading.answers import Answer
from gradmem_core.reading.sampling import Sampling
from gradmem_core.writing.compression import Steps, WrittenPage
from service.engine.admission import Permit
from service.engine.engine import Engine
from service.engine.work import StepMade


class EngineWorker:
    """A `Worker` of `gradmem_core.writing.compression`, with one permit for all of its work.

    Args:
        engine: The engine that does the work.
        checkpoint: The checkpoint that writes and reads.
        permit: That of the request.
        listener: Called on the event loop with every gradient step. Page numbers go on from one
            call of `write_pages` to the next.
    """

    def __init__(
        self,
        engine: Engine,
        checkpoint: Checkpoint,
        *,
        permit: Permit,
        listener: Callable[[StepMade], None] | None,
    ) -> None:
        self._engine = engine
        self._checkpoint = checkpoint
        self._permit = permit
        self._listener = listener
        self._pages = 0

    async def write_pages(self, pages: Sequence[list[int]], steps: Steps) -> list[WrittenPage]:
        """Write pages (see `Worker`)."""
        first_page = self._pages
        self._pages += len(pages)
        return await self._engine.write_pages(
            self._checkpoint,
            pages,
            steps,
            first_page=first_page,
            permit=self._permit,
            listener=self._listener,
        )

    async def read_pages(
        self, memory: Tensor, queries: Sequence[list[int]], sampling: Sequence[Sampling]
    ) -> list[Answer]:
        """Answer queries (see `Worker`)."""
        return await self._engine.read_pages(
            self._checkpoint, memory, None, queries, sampling, permit=self._permit
        )
