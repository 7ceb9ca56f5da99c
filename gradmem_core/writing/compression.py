"""A document becomes the pages of a memory: written, read back, and what is weak written again.

The work on the device is a `Worker`'s, for instance the service's engine.
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
from gradmem_core.reading.decoding import Sampling
from gradmem_core.texts.documents import Page, text_page
from gradmem_core.texts.paging import split_text
from gradmem_core.writing.verification import WEAK, grade, make_probes

Steps: TypeAlias = int | Literal["auto"]
"A number of gradient steps, or as many as still help."

READ_AT_A_TIME = 8
"""Pages of a document that are read back at a time: enough for a full batch, and little of the room
that requests share."""
SHORTEST_HALF = 16
"Tokens below which a page is not split for being weak."


@dataclass(frozen=True)
class WrittenPage:
    """What WRITE made of a page."""

    memory: Tensor
    "Float32 `(m, d)`, on the CPU."
    losses: list[float]
    "Before each step and after the last, nats per token."
    write_accuracy: float
    "Share of the tokens that WRITE predicts from the memory and the tokens before."

    @property
    def steps(self) -> int:
        """Gradient steps that made the memory."""
        return len(self.losses) - 1


@dataclass(frozen=True)
class MemoryPage:
    """A page with what was made of it."""

    page: Page
    written: WrittenPage
    read_back: ReadBack | None = None
    "What READ gave back of it; None where it was not asked."

    @property
    def weak(self) -> bool:
        """Whether less came back of it than should."""
        share = None if self.read_back is None else self.read_back.share
        return share is not None and share < WEAK


class Worker(Protocol):
    """Does what takes the device's time."""

    async def write_pages(self, pages: Sequence[list[int]], steps: Steps) -> list[WrittenPage]:
        """Write pages, given their tokens."""

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

    Weak pages are split in two and written again, once, where there is room; the halves are kept
    where more of the text comes back from them.

    Args:
        worker: Does the work.
        checkpoint: What writes and reads.
        pages: At least one.
        steps: Gradient steps of each.
        dtype: How the memory will be stored: it is read back as it will be.
        verify: Read back; without it every page is taken as it is.
        max_pages: Most pages of the result.

    Raises:
        GradMemError: Of the first page that failed.
    """
    written = await worker.write_pages([page.ids for page in pages], steps)
    made = [MemoryPage(*pair) for pair in zip(pages, written, strict=True)]
    if not verify or checkpoint.task.continuation_prompt is None:
        return made
    made = await _read_back(worker, checkpoint, made, dtype)
    halves = await asyncio.to_thread(_weak_halves, checkpoint, made)
    room = max(0, max_pages - len(made))
    for number in sorted(halves, key=lambda place: _share(made[place]))[room:]:
        del halves[number]  # no room for all: the weakest are split
    if not halves:
        return made
    flat = [half for found in halves.values() for half in found]
    written = await worker.write_pages([half.ids for half in flat], steps)
    again = iter(
        await _read_back(
            worker,
            checkpoint,
            [MemoryPage(*pair) for pair in zip(flat, written, strict=True)],
            dtype,
        )
    )
    result: list[MemoryPage] = []
    for number, one in enumerate(made):
        split = [next(again) for _ in halves.get(number, ())]
        result += split if split and _joint_share(split) > _share(one) else [one]
    return result


async def _read_back(
    worker: Worker, checkpoint: Checkpoint, pages: Sequence[MemoryPage], dtype: BlobDtype
) -> list[MemoryPage]:
    """Ask each page for what it should hold; the first error ends it all."""
    room = asyncio.Semaphore(READ_AT_A_TIME)

    async def read_back(one: MemoryPage) -> MemoryPage:
        async with room:
            return await _read_page_back(worker, checkpoint, one, dtype)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(read_back(one)) for one in pages]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def _read_page_back(
    worker: Worker, checkpoint: Checkpoint, one: MemoryPage, dtype: BlobDtype
) -> MemoryPage:
    page = one.page
    assert page.text is not None
    probes = await asyncio.to_thread(make_probes, checkpoint, page.text, lines=page.lines)
    if not probes:
        return replace(one, read_back=ReadBack(words=0, right=0))
    answers = await worker.read_pages(
        quantize(one.written.memory[None], dtype),
        [probe.ids for probe in probes],
        [Sampling(probe.most_tokens) for probe in probes],
    )
    texts = [checkpoint.tokenizer.decode(answer.tokens) for answer in answers]
    return replace(one, read_back=grade(probes, texts))


def _weak_halves(checkpoint: Checkpoint, made: Sequence[MemoryPage]) -> dict[int, list[Page]]:
    """The halves of each weak page that can be split, by its place."""
    return {
        place: found
        for place, one in enumerate(made)
        if one.weak and len(found := _halves(checkpoint, one.page)) > 1
    }


def _halves(checkpoint: Checkpoint, page: Page) -> list[Page]:
    """Split a page in two, with its line numbers in the document; one page where it cannot be."""
    assert page.text is not None
    if len(page.ids) < 2 * SHORTEST_HALF:
        return [page]
    try:
        found = split_text(
            checkpoint.tokenizer,
            page.text,
            page_tokens=len(page.ids) * 2 // 3,
            max_pages=2,
        )
    except (TooManyPagesError, WordTooLongError):
        return [page]
    if len(found) != 2:
        return [page]
    halves = map(text_page, found)
    return [
        replace(half, lines=tuple(page.lines[line - 1] if line else 0 for line in half.lines))
        for half in halves
    ]


def _share(one: MemoryPage) -> float:
    return _joint_share([one])


def _joint_share(pages: Sequence[MemoryPage]) -> float:
    """The share of all words that came back; all of them where none was asked for."""
    found = [one.read_back for one in pages if one.read_back is not None]
    words = sum(one.words for one in found)
    return sum(one.right for one in found) / words if words else 1.0
