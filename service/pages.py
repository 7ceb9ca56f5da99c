"""The pages of a stored memory: found by their ids, replaced, appended and left out.

A page may be replaced by several: the first keeps its id, and the id of each further one is derived
from that of the page before. So one id names all that was written in place of a page.
"""

import hashlib
from typing import TypeAlias

import torch
from torch import Tensor

from gradmem_core.blob import Blob, PageInfo
from gradmem_core.errors import InputError, PageNotFoundError

Pages: TypeAlias = tuple[Tensor, tuple[PageInfo, ...]]
"Vectors `(p, m, d)`, and the information on each page."


def page_index(blob: Blob, page_id: str | None) -> int:
    """Return the index of a page in a memory; None names the only page.

    Raises:
        PageNotFoundError: The memory has no page of that id.
        InputError: None is named and there are several.
    """
    ids = [page.page_id for page in blob.info.pages]
    if page_id is None and len(ids) == 1:
        return 0
    if page_id is None:
        raise InputError(f"the memory has {len(ids)} pages: name one of {', '.join(ids)}")
    if page_id not in ids:
        raise PageNotFoundError("the memory has no page of this id")
    return ids.index(page_id)


def find_page(blob: Blob, page_id: str) -> range:
    """Return the indices of a page and of the pages that continue it.

    Raises:
        PageNotFoundError: The memory has no page of that id.
    """
    ids = [page.page_id for page in blob.info.pages]
    start = page_index(blob, page_id)
    stop = start + 1
    while stop < len(ids) and ids[stop] == _next_id(ids[stop - 1]):
        stop += 1
    return range(start, stop)


def with_pages(new: Pages, blob: Blob) -> Pages:
    """Return the pages of a memory with new ones after them, unless it has them already."""
    vectors, infos = new
    if any(page.page_id == infos[0].page_id for page in blob.info.pages):
        return blob.memory, blob.info.pages
    return torch.cat([blob.memory, vectors]), blob.info.pages + infos


def name_pages(page_id: str, pages: Pages) -> Pages:
    """Return pages with an id for the first that was chosen beforehand."""
    vectors, (first, *others) = pages
    return vectors, (first.model_copy(update={"page_id": page_id}), *others)


def with_page(page_id: str, new: Pages, blob: Blob) -> Pages:
    """Return the pages of a memory with new ones in place of a page and those that continue it.

    Args:
        page_id: The page.
        new: At least one page. The first gets the id of the page, the others continue it.
        blob: The memory.

    Raises:
        PageNotFoundError: The memory has no page of that id.
    """
    old, (vectors, infos) = find_page(blob, page_id), new
    named = []
    for info in infos:
        named.append(info.model_copy(update={"page_id": page_id}))
        page_id = _next_id(page_id)
    memory = torch.cat([blob.memory[: old.start], vectors, blob.memory[old.stop :]])  # (p, m, d)
    return memory, (*blob.info.pages[: old.start], *named, *blob.info.pages[old.stop :])


def without_page(page_id: str, blob: Blob) -> Pages:
    """Return the pages of a memory without a page and those that continue it.

    Raises:
        PageNotFoundError: The memory has no page of that id.
        InputError: It has no other.
    """
    infos, deleted = blob.info.pages, find_page(blob, page_id)
    others = [index for index in range(len(infos)) if index not in deleted]
    if not others:
        raise InputError("the memory has no other page; delete the memory instead")
    return blob.memory[others], tuple(infos[index] for index in others)


def _next_id(page_id: str) -> str:
    """Return the id of the page that continues a page."""
    return hashlib.blake2b(bytes.fromhex(page_id), digest_size=8).hexdigest()
