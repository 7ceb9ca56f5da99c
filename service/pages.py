"""What is told of memories and their pages."""

from collections.abc import Sequence
from typing import TypeAlias

from torch import Tensor

from gradmem_core import blob
from gradmem_core.blob import Blob
from gradmem_core.errors import InputError, PageNotFoundError
from service.schemas import MemoryInfo, PageInfo
from service.stores import StoredMemory

Pages: TypeAlias = tuple[Tensor, tuple[blob.PageInfo, ...]]
"Vectors `(p, m, d)`, and what is known of each page."


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
        write_accuracy=sum(page.write_accuracy * page.tokens for page in pages) / tokens,
        read_back=_read_back(pages),
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


def _read_back(pages: Sequence[blob.PageInfo]) -> float | None:
    """The share of all words asked for that came back."""
    asked = [page.read_back for page in pages if page.read_back is not None]
    words = sum(one.words for one in asked)
    return sum(one.right for one in asked) / words if words else None


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
