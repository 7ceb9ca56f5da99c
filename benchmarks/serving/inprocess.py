"""The service's engine in this process, and WRITE without it."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.measurement import alternate
from benchmarks.serving.documents import Document
from benchmarks.serving.load import Request, percentile, under_load
from benchmarks.serving.results import Load, Via
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.padding import pad_right
from gradmem_core.reading.decoding import Sampling
from gradmem_core.writing.compression import WrittenPage
from gradmem_core.writing.descent import write
from service.app import create_app
from service.engine import Engine
from service.settings import Settings
from service.state import State


@asynccontextmanager
async def running_engine(settings: Settings) -> AsyncIterator["EngineTarget"]:
    """The engine as the service would start it with these settings."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        state: State = app.state.gradmem
        yield EngineTarget(state.engine, state.models.get(None))


class EngineTarget:
    """The engine of a service that runs in this process."""

    via: Via = "in-process"

    def __init__(self, engine: Engine, checkpoint: Checkpoint) -> None:
        self._engine = engine
        self.checkpoint = checkpoint

    def writes(self, documents: Sequence[Document], *, steps: int) -> list[Request]:
        """See `Target.writes`."""

        return [self._writing(document, steps) for document in documents]

    async def reads(self, documents: Sequence[Document]) -> list[Request]:
        """See `Target.reads`."""

        steps = self.checkpoint.model.config.write_steps
        sampling = [Sampling(max_new_tokens=self.checkpoint.model.config.max_answer_tokens)]
        requests: list[Request] = []
        for number, document in enumerate(documents):
            (written,) = await self._writing(document, steps)()
            memory = written.memory[None]  # (1, m, d)
            query = self.checkpoint.tokenizer.encode(document.queries[0])
            # With an id the engine keeps the prefilled memory, as it does for the service.
            ids = [(str(number), "")]
            read = partial(self._engine.read_pages, self.checkpoint, memory, ids, [query], sampling)
            requests.append(read)
        return requests

    @asynccontextmanager
    async def saturated(
        self, documents: Sequence[Document], *, steps: int, concurrency: int, warm_up: float
    ) -> AsyncIterator[list[Load]]:
        """See `Target.saturated`."""
        loads: list[Load] = []
        requests = self.writes(documents, steps=steps)
        async with under_load(requests, concurrency=concurrency) as sent:
            await asyncio.sleep(warm_up)
            begin = time.perf_counter()
            yield loads
            end = time.perf_counter()
        loads.append(sent.within(begin, end, via=self.via, concurrency=concurrency))

    def _writing(
        self, document: Document, steps: int
    ) -> Callable[[], Awaitable[list[WrittenPage]]]:
        ids = self.checkpoint.tokenizer.encode(document.text)
        return partial(self._engine.write_pages, self.checkpoint, [ids], steps)


@dataclass(frozen=True)
class Batch:
    """Documents as tensors, ready to be written."""

    ids: Tensor
    "Token ids `(B, T)`, padded on the right."
    lengths: Tensor
    "Tokens of each, `(B,)`."


def batch_of(checkpoint: Checkpoint, documents: Sequence[Document]) -> Batch:
    """Tokenize documents and put them where the model is."""
    device = checkpoint.model.initial_memory.device
    rows = [checkpoint.tokenizer.encode(document.text) for document in documents]
    ids = pad_right(rows, checkpoint.tokenizer.pad_id, device=device)
    return Batch(ids, torch.tensor([len(row) for row in rows], device=device))


def ready_batches(
    checkpoint: Checkpoint, documents: Sequence[Document], *, steps: int, seconds: float
) -> Load:
    """Write one ready batch of the documents again and again, for `seconds` at least."""
    batch = batch_of(checkpoint, documents)
    write(checkpoint.model, batch.ids, batch.lengths, steps, create_graph=False)
    taken: list[float] = []
    begin = time.perf_counter()
    while sum(taken) < seconds:
        started = time.perf_counter()
        write(checkpoint.model, batch.ids, batch.lengths, steps, create_graph=False)
        taken.append(time.perf_counter() - started)
    length = time.perf_counter() - begin
    return Load(
        via="ready batches",
        concurrency=len(documents),
        seconds=length,
        throughput=len(taken) * len(documents) / length,
        p50=percentile(taken, 50),
        p99=percentile(taken, 99),
        answered=len(taken) * len(documents),
        failures={},
    )


def step_seconds(
    checkpoint: Checkpoint, documents: Sequence[Document], *, steps: int, rounds: int
) -> float:
    """Seconds of one gradient step of a batch: what K steps take beyond one, median of rounds.

    Args:
        checkpoint: Writes.
        documents: The batch.
        steps: K, at least 2.
        rounds: How often it is timed.
    """
    batch = batch_of(checkpoint, documents)

    def writing(count: int) -> Callable[[], object]:
        return lambda: write(checkpoint.model, batch.ids, batch.lengths, count, create_graph=False)

    taken = alternate({"one": writing(1), "all": writing(steps)}, rounds)
    return statistics.median(
        (longer - shorter) / (steps - 1)
        for shorter, longer in zip(taken["one"], taken["all"], strict=True)
    )
