"""Memories of several pages: their work side by side, and what is told of them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from gradmem_core import blob
from gradmem_core.blob import Blob
from gradmem_core.errors import DeadlineError
from service.engine import Admission
from service.schemas import MemoryInfo, PageInfo
from service.stores import StoredMemory

SHARE = 4
"A request of many pages takes at most one part in this many of the engine's room, or one page."

T = TypeVar("T")


async def for_each_page(
    work: Sequence[Callable[[float], Awaitable[T]]],
    *,
    tokens: int,
    admission: Admission,
    seconds: float | None,
) -> list[T]:
    """Do the work of every page, many at a time; the first error ends it all.

    Args:
        work: Takes the seconds that are left and does one page's work.
        tokens: Room in the engine that the largest page takes.
        admission: The engine's.
        seconds: Longest that all of it may take; the engine's limit where that is shorter.

    Raises:
        GradMemError: Of the first page that failed.
        DeadlineError: The time was over.
    """
    loop = asyncio.get_running_loop()
    longest = min(seconds or admission.seconds, admission.seconds)
    deadline = loop.time() + longest
    room = asyncio.Semaphore(max(1, admission.tokens // SHARE // tokens))

    async def one(do: Callable[[float], Awaitable[T]]) -> T:
        async with room:
            left = deadline - loop.time()
            if left <= 0:
                raise DeadlineError(
                    f"no result within {longest:g} s; send less at a time, or allow more time"
                )
            return await do(left)

    if len(work) == 1:
        return [await one(work[0])]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(do)) for do in work]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def memory_info(stored: StoredMemory, of: Blob) -> MemoryInfo:
    """What is known of a memory."""
    pages = of.info.pages
    tokens = sum(page.tokens for page in pages)
    records = [page.records for page in pages if page.records is not None]
    return MemoryInfo(
        memory_id=stored.memory_id,
        model=stored.model,
        fingerprint=of.info.fingerprint,
        tokens=tokens,
        records=sum(records) if records else None,
        write_steps=max(page.write_steps for page in pages),
        losses=_mean_losses(pages),
        recall=sum(page.recall * page.tokens for page in pages) / tokens,
        pages=[_page_info(page) for page in pages],
        bytes=len(stored.blob),
        dtype=of.dtype,
        created_at=stored.created_at,
        expires_at=stored.expires_at,
        metadata=stored.metadata,
    )


def _mean_losses(pages: Sequence[blob.PageInfo]) -> list[float]:
    """The mean over all tokens; a page that took fewer steps is counted with its last loss."""
    tokens = sum(page.tokens for page in pages)
    most = max(len(page.losses) for page in pages)
    return [
        sum(page.losses[min(step, len(page.losses) - 1)] * page.tokens for page in pages) / tokens
        for step in range(most)
    ]


def _page_info(page: blob.PageInfo) -> PageInfo:
    return PageInfo(**page.model_dump(exclude={"document_sha256"}))
