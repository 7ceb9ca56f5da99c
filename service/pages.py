"""Memories of several pages: their work side by side, and what is told of them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, TypeVar

from torch import Tensor

from gradmem_core import blob
from gradmem_core.blob import Blob
from gradmem_core.errors import DeadlineError, InputError, PageNotFoundError
from service.engine import Admission
from service.schemas import MemoryInfo, PageInfo
from service.stores import StoredMemory

SHARE = 4
"A request of many pages takes at most one part in this many of the engine's room, or one page."

T = TypeVar("T")
Pages: TypeAlias = tuple[Tensor, tuple[blob.PageInfo, ...]]
"Vectors `(p, m, d)`, and what is known of each page."


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


def page_place(memory: Blob, page_id: str | None) -> int:
    """Where a page stands in a memory; None names the only one.

    Raises:
        PageNotFoundError: The memory has no page of that id.
        InputError: None is named and there are several.
    """
    ids = [page.page_id for page in memory.info.pages]
    if page_id is None and len(ids) == 1:
        return 0
    if page_id is None:
        raise InputError(f"the memory has {len(ids)} pages: name one of {', '.join(ids)}")
    if page_id not in ids:
        raise PageNotFoundError("the memory has no page of this id")
    return ids.index(page_id)


def without_page(page_id: str, memory: Blob) -> Pages:
    """All pages but one.

    Raises:
        PageNotFoundError: The memory has no page of that id.
        InputError: It has no other.
    """
    pages, left_out = memory.info.pages, page_place(memory, page_id)
    kept = [number for number in range(len(pages)) if number != left_out]
    if not kept:
        raise InputError("the memory has no other page; delete the memory itself")
    return memory.memory[kept], tuple(pages[number] for number in kept)
