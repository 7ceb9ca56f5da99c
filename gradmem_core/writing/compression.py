"""Compression of a document: its pages are written, read back, and split where they are weak.

A `Worker` does the work on the device, for instance the service's engine.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias

from torch import Tensor

from gradmem_core.blob import ReadBack, quantize
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.config import BlobDtype
from gradmem_core.errors import TooManyPagesError, WordTooLongError
from gradmem_core.reading.answers import Answer
from gradmem_core.reading.sampling import Sampling
from gradmem_core.texts.paging import Page, split_text
from gradmem_core.writing.verification import WEAK, grade, make_probes

Steps: TypeAlias = int | Literal["auto"]
"Gradient steps; `auto` for as many as still help."

READ_AT_A_TIME = 8
"""Pages of a document that are read back at the same time: enough for a full batch, and few beside
the queries of other requests."""
SHORTEST_HALF = 16
"Fewest tokens of each half of a weak page that is split."


@dataclass(frozen=True)
class TokenLosses:
    """Reconstruction loss of each token of a page, nats; the mean is that of the page."""

    before: list[float]
    "From M0."
    after: list[float]
    "From the memory."


@dataclass(frozen=True)
class WrittenPage:
    """The result of WRITE for a page."""

    memory: Tensor
    "Float32 `(m, d)`, on the CPU."
    losses: list[float]
    "Reconstruction loss before each step and after the last, nats per token."
    write_accuracy: float
    "Share of the tokens that are predicted correctly from the memory and the tokens before them."
    token_losses: TokenLosses
    "The first and the last loss by token."

    @property
    def steps(self) -> int:
        """Gradient steps (K)."""
        return len(self.losses) - 1


@dataclass(frozen=True)
class MemoryPage:
    """A page of a document with its vectors."""

    page: Page
    written: WrittenPage
    read_back: ReadBack | None = None
    "Result of reading the page back; None where it was not read back."

    @property
    def weak(self) -> bool:
        """True if READ recalls less than WEAK of the page."""
        share = None if self.read_back is None else self.read_back.share
        return share is not None and share < WEAK


class Worker(Protocol):
    """The work on the device."""

    async def write_pages(self, pages: Sequence[list[int]], steps: Steps) -> list[WrittenPage]:
        """Write pages, given their token ids."""

    async def read_pages(
        self, memory: Tensor, queries: Sequence[list[int]], sampling: Sequence[Sampling]
    ) -> list[Answer]:
        """Answer queries from the pages of a memory, `(p, m, d)`."""


async def compress(
    worker: Worker,
    checkpoint: Checkpoint,
    pages: Sequence[Page],
    steps: Steps,
    *,
    dtype: BlobDtype,
    verify: bool,
    max_pages: int,
) -> list[MemoryPage]:
    """Write the pages of a document and read them back.

    Weak pages are split in two and written again, once, where `max_pages` allows. The halves are
    kept where READ recalls more of the text from them.

    Args:
        worker: Does the work on the device.
        checkpoint: The checkpoint that writes and reads.
        pages: At least one.
        steps: Gradient steps for each page.
        dtype: Type of the elements in the store; pages are read back as they will be stored.
        verify: Read the pages back; without it every page is kept as it was written.
        max_pages: Most pages of the result.

    Raises:
        GradMemError: The error of the first page that failed.
    """
    written = await _write(worker, pages, steps)
    if not verify or checkpoint.task.continuation_prompt is None:
        return written
    written = await _read_back(worker, checkpoint, written, dtype)
    halves = await asyncio.to_thread(
        _split_weakest, checkpoint, written, most=max_pages - len(written)
    )
    if not halves:
        return written
    rewritten = await _write(worker, [half for pair in halves.values() for half in pair], steps)
    rewritten = await _read_back(worker, checkpoint, rewritten, dtype)
    return _keep_better(written, halves, rewritten)


async def _write(worker: Worker, pages: Sequence[Page], steps: Steps) -> list[MemoryPage]:
    written = await worker.write_pages([page.ids for page in pages], steps)
    return [MemoryPage(*pair) for pair in zip(pages, written, strict=True)]


async def _read_back(
    worker: Worker, checkpoint: Checkpoint, pages: Sequence[MemoryPage], dtype: BlobDtype
) -> list[MemoryPage]:
    """Read pages back, several at a time; the first error cancels the others."""
    slots = asyncio.Semaphore(READ_AT_A_TIME)

    async def read_back(page: MemoryPage) -> MemoryPage:
        async with slots:
            return await _read_page_back(worker, checkpoint, page, dtype)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(read_back(page)) for page in pages]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def _read_page_back(
    worker: Worker, checkpoint: Checkpoint, memory_page: MemoryPage, dtype: BlobDtype
) -> MemoryPage:
    page = memory_page.page
    probes = await asyncio.to_thread(make_probes, checkpoint, page.text, lines=page.lines)
    if not probes:
        return replace(memory_page, read_back=ReadBack(words=0, right=0))
    answers = await worker.read_pages(
        quantize(memory_page.written.memory[None], dtype),
        [probe.ids for probe in probes],
        [Sampling(probe.max_tokens) for probe in probes],
    )
    texts = [checkpoint.tokenizer.decode(answer.tokens) for answer in answers]
    return replace(memory_page, read_back=grade(probes, texts))


def _split_weakest(
    checkpoint: Checkpoint, pages: Sequence[MemoryPage], *, most: int
) -> dict[int, list[Page]]:
    """Split the weakest pages; return the halves by the index of their page.

    Args:
        checkpoint: The checkpoint that wrote the pages.
        pages: The pages.
        most: Most pages to split.
    """
    halves: dict[int, list[Page]] = {}
    weak = [index for index, page in enumerate(pages) if page.weak]
    for index in sorted(weak, key=lambda index: _recall([pages[index]])):
        if len(halves) < most and (pair := _halve(checkpoint, pages[index].page)):
            halves[index] = pair
    return dict(sorted(halves.items()))


def _halve(checkpoint: Checkpoint, page: Page) -> list[Page] | None:
    """Split a page in two, keeping the line numbers of the document; None where it cannot be."""
    if len(page.ids) < 2 * SHORTEST_HALF:
        return None
    page_tokens = len(page.ids) * 2 // 3
    try:
        halves = split_text(checkpoint.tokenizer, page.text, page_tokens=page_tokens, max_pages=2)
    except (TooManyPagesError, WordTooLongError):
        return None
    if len(halves) != 2:
        return None
    return [
        replace(half, lines=tuple(page.lines[line - 1] if line else 0 for line in half.lines))
        for half in halves
    ]


def _keep_better(
    pages: Sequence[MemoryPage], halves: dict[int, list[Page]], rewritten: Sequence[MemoryPage]
) -> list[MemoryPage]:
    """Replace each page whose halves READ recalls better by the halves."""
    remaining = iter(rewritten)
    result: list[MemoryPage] = []
    for index, page in enumerate(pages):
        split = [next(remaining) for _ in halves.get(index, ())]
        result += split if split and _recall(split) > _recall([page]) else [page]
    return result


def _recall(pages: Sequence[MemoryPage]) -> float:
    """Return the share of all words that READ recalls; 1 where it was asked for none."""
    results = [page.read_back for page in pages if page.read_back is not None]
    words = sum(result.words for result in results)
    return sum(result.right for result in results) / words if words else 1.0
