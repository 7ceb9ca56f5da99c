"""Stored memories: add, open, change, list, show and delete them."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import accumulate
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

from gradmem_core.blob import (
    Blob,
    BlobInfo,
    check_fingerprint,
    check_shape,
    pack,
    unpack,
)
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.config import BlobDtype
from gradmem_core.errors import (
    BlobError,
    InputError,
    MemoryChangedError,
    MemoryNotFoundError,
    TooManyPagesError,
)
from service.audit_log import audit
from service.descriptions import describe_memory, summarize_memory
from service.encryption import Keyring
from service.engine import Engine
from service.models import Models
from service.offload import call_by_size
from service.pages import Pages, page_index, with_page, with_pages, without_page
from service.recent import RecentlyUsed
from service.schemas import (
    MAX_LIST,
    MAX_METADATA,
    DeleteRequest,
    DeleteResponse,
    MemoriesResponse,
    MemoryInfo,
    MemoryPatch,
)
from service.stores import (
    NO_QUOTA,
    MemoryFilter,
    MemoryHead,
    MemoryList,
    Quota,
    Store,
    StoredMemory,
    Usage,
    check_cursor,
    memory_key,
    new_memory_id,
)

MAX_CHANGE_ATTEMPTS = 10
"Attempts to store a change while other services change the same memory."
ELEMENT_BYTES: dict[BlobDtype, int] = {"float32": 4, "float16": 2, "int8": 1}
"Bytes of an element of a memory in its blob."
DECODED_BYTES = 2**26
"Most bytes of memories that stay decoded for later requests."
DESCRIPTION_BYTES = 2**13
"About the bytes that the description of a decoded page takes."
MAX_LIST_CHARACTERS = 2**20
"Most characters of metadata in a part of a list."

Change: TypeAlias = Callable[[StoredMemory], tuple[StoredMemory, Blob]]
"Returns the changed memory, with its blob decoded; may raise to refuse."


@dataclass(frozen=True)
class _Decoded:
    """A blob and the bytes that the store had of it."""

    data: bytes
    blob: Blob

    @property
    def bytes(self) -> int:
        """About the bytes of both."""
        pages = len(self.blob.info.pages)
        return len(self.data) + self.blob.memory.nbytes + pages * DESCRIPTION_BYTES


@dataclass(frozen=True)
class OpenMemory:
    """A stored memory, decoded, with the checkpoint that wrote it."""

    stored: StoredMemory
    blob: Blob
    checkpoint: Checkpoint


class Memories:
    """The memories in the store, decoded and checked against the served checkpoints.

    Args:
        models: The served checkpoints.
        engine: The engine; it keeps prefilled memories, which it has to forget.
        store: The store of the blobs.
        keyring: The keys that encrypt the blobs in the store.
        dtype: How a blob holds the elements of a memory.
        max_pages: Most pages of a memory.
    """

    def __init__(
        self,
        models: Models,
        engine: Engine,
        store: Store,
        keyring: Keyring,
        *,
        dtype: BlobDtype,
        max_pages: int,
    ) -> None:
        self.dtype: BlobDtype = dtype
        self.max_pages = max_pages
        self._models = models
        self._engine = engine
        self._store = store
        self._keyring = keyring
        self._decoded: RecentlyUsed[str, _Decoded] = RecentlyUsed(
            DECODED_BYTES, size=lambda memory: memory.bytes
        )
        self._dropped = 0  # times that any of them was dropped
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def add(
        self,
        checkpoint: Checkpoint,
        pages: Pages,
        *,
        tenant: str,
        quota: Quota,
        name: str | None,
        metadata: dict[str, str],
        ttl_seconds: int | None,
        memory_id: str | None = None,
    ) -> MemoryInfo:
        """Store a new memory.

        Args:
            checkpoint: The checkpoint that wrote the pages.
            pages: The pages.
            tenant: The tenant to whom it belongs.
            quota: Most that the tenant may have with it.
            name: Name of the memory.
            metadata: Names and values of the client.
            ttl_seconds: Seconds until the memory expires; None for never.
            memory_id: Its handle, where that was chosen beforehand; a memory that has it stays, and
                is the one that is described.

        Raises:
            QuotaError: The tenant has as much as it may have.
            StoreUnavailableError: The store cannot be reached.
        """
        vectors, infos = pages
        info = BlobInfo(fingerprint=checkpoint.fingerprint, pages=infos, tenant=tenant)
        blob = Blob(vectors, self.dtype, info)
        created_at = infos[0].created_at
        stored = StoredMemory(
            memory_id=memory_id or new_memory_id(),
            model=checkpoint.name,
            blob=await asyncio.to_thread(pack, vectors, blob.info, dtype=self.dtype),
            metadata=metadata,
            created_at=created_at,
            expires_at=None if ttl_seconds is None else created_at + timedelta(seconds=ttl_seconds),
            tenant=tenant,
            name=name,
        )
        stored = await call_by_size(len(stored.blob), self._keyring.seal, stored)
        if memory_id is None:
            await self._store.put(stored, quota)
        elif not await self._store.put_once(stored, quota):
            return await self.show(tenant, memory_id)
        return describe_memory(stored, blob)

    def check_page_count(self, pages: int) -> None:
        """Refuse more pages than a memory may have.

        Raises:
            TooManyPagesError: There are more.
        """
        if pages > self.max_pages:
            raise TooManyPagesError(
                f"the memory would have {pages} pages and at most {self.max_pages} are allowed"
                " (GRADMEM_MAX_PAGES); use several memories",
                limit=self.max_pages,
            )

    async def check_room(
        self, tenant: str, quota: Quota, checkpoint: Checkpoint, *, memories: int, pages: int
    ) -> None:
        """Refuse what would take a tenant beyond its quota, before it is written.

        Args:
            tenant: The tenant.
            quota: Most that it may have.
            checkpoint: The checkpoint that writes.
            memories: Memories to be added.
            pages: Pages to be added at least.

        Raises:
            QuotaError: The tenant would have more.
            StoreUnavailableError: The store cannot be reached.
        """
        config, width = checkpoint.model.config, checkpoint.model.backbone.width
        elements = pages * config.memory_tokens * width
        added = Usage(memories, elements * ELEMENT_BYTES[self.dtype])
        await self._store.check_room(tenant, quota, added)

    async def find_written(
        self, tenant: str, *, memory_id: str, page_id: str | None = None
    ) -> OpenMemory:
        """Open a memory whose id, or the id of a page, was chosen beforehand.

        Args:
            tenant: The tenant whose memory it is.
            memory_id: The memory's handle.
            page_id: A page that it must have; None for any.

        Raises:
            NotFoundError: No memory of the tenant has that id, or no page of it.
            FingerprintMismatchError: The memory was written by another checkpoint.
            BlobError: The memory is damaged.
            StoreUnavailableError: The store cannot be reached.
        """
        stored = await self._store.complete_put(tenant, memory_id)
        blob = await call_by_size(len(stored.blob), self._unpack, stored)
        memory = self._open(stored, blob, None)
        if page_id is not None:
            page_index(blob, page_id)
        return memory

    async def open(self, tenant: str, memory_id: str, model: str | None = None) -> OpenMemory:
        """Fetch and decode a memory.

        Args:
            tenant: The tenant whose memory it is.
            memory_id: The memory's handle.
            model: Name of the checkpoint to open it with; the one that wrote it by default.

        Raises:
            NotFoundError: No memory of the tenant has that id, or no checkpoint of that name is
                served.
            FingerprintMismatchError: The memory was written by another checkpoint.
            BlobError: The memory is damaged.
            StoreUnavailableError: The store cannot be reached.
        """
        stored, blob = await self._fetch(tenant, memory_id)
        return self._open(stored, blob, model)

    async def append(self, tenant: str, memory_id: str, pages: Pages, quota: Quota) -> MemoryInfo:
        """Add pages to a memory, after those that it has.

        Args:
            tenant: The tenant whose memory it is.
            memory_id: The memory's handle.
            pages: The pages, written by the memory's checkpoint.
            quota: Most that the tenant may have with them.

        Raises:
            MemoryNotFoundError: No memory of the tenant has that id.
            TooManyPagesError: The memory would have more pages than allowed.
            QuotaError: The tenant has as much as it may have.
            MemoryChangedError: Others kept changing the memory.
            StoreUnavailableError: The store cannot be reached.
        """
        memory = await self._change_pages(tenant, memory_id, partial(with_pages, pages), quota)
        audit("memory.append", memory_id=memory_id, pages=len(pages[1]))
        return memory

    async def replace_page(
        self, tenant: str, memory_id: str, page_id: str, pages: Pages, quota: Quota
    ) -> MemoryInfo:
        """Put pages in the place of a page and of those that continue it.

        Args:
            tenant: The tenant whose memory it is.
            memory_id: The memory's handle.
            page_id: The page, whose id stays.
            pages: The pages, written by the memory's checkpoint.
            quota: Most that the tenant may have with them.

        Raises:
            NotFoundError: No memory of the tenant has that id, or no page of it.
            TooManyPagesError: The memory would have more pages than allowed.
            QuotaError: The tenant has as much as it may have.
            MemoryChangedError: Others kept changing the memory.
            StoreUnavailableError: The store cannot be reached.
        """
        change = partial(with_page, page_id, pages)
        memory = await self._change_pages(tenant, memory_id, change, quota)
        self._forget(tenant, memory_id)
        audit("memory.replace_page", memory_id=memory_id, page_id=page_id, pages=len(pages[1]))
        return memory

    async def patch(
        self, tenant: str, memory_id: str, changes: MemoryPatch, quota: Quota
    ) -> MemoryInfo:
        """Change name, metadata and expiry of a memory.

        Args:
            tenant: The tenant whose memory it is.
            memory_id: The memory's handle.
            changes: What is to change.
            quota: Most that the tenant may have, name and metadata included.

        Raises:
            MemoryNotFoundError: No memory of the tenant has that id.
            InputError: The metadata would have too many entries.
            QuotaError: The tenant has as much as it may have.
            MemoryChangedError: Others kept changing the memory.
            StoreUnavailableError: The store cannot be reached.
        """
        changed = await self._replace(
            tenant,
            memory_id,
            lambda stored: (_patch(changes, stored), self._unpack(stored)),
            quota,
        )
        audit("memory.patch", memory_id=memory_id)
        return changed

    async def _change_pages(
        self, tenant: str, memory_id: str, change: Callable[[Blob], Pages], quota: Quota
    ) -> MemoryInfo:
        return await self._replace(tenant, memory_id, partial(self._apply, change), quota)

    async def _replace(
        self, tenant: str, memory_id: str, change: Change, quota: Quota
    ) -> MemoryInfo:
        # Changes made by this service take turns: with many at once, some would never succeed.
        lock = self._changing.setdefault(memory_key(tenant, memory_id), asyncio.Lock())
        async with lock:
            for _ in range(MAX_CHANGE_ATTEMPTS):
                stored = await self._store.get(tenant, memory_id)
                changed, blob = await asyncio.to_thread(change, stored)
                if await self._store.replace(stored, changed, quota):
                    self._drop_decoded(stored.key)
                    return describe_memory(changed, blob)
        raise MemoryChangedError(
            f"others changed the memory during each of {MAX_CHANGE_ATTEMPTS} attempts; nothing was"
            " stored, try again"
        )

    async def list(
        self, tenant: str, wanted: MemoryFilter, *, limit: int, cursor: str | None
    ) -> MemoriesResponse:
        """List memories of a tenant, the newest first; see `Store.list_memories`.

        Raises:
            InputError: The cursor is not one of a list.
            StoreUnavailableError: The store cannot be reached.
        """
        check_cursor(cursor)
        part = await self._store.list_memories(tenant, wanted, limit=limit, cursor=cursor)
        fitting = _count_fitting(part.memories)
        if fitting < len(part.memories):
            part = MemoryList(part.memories[:fitting], part.memories[fitting - 1].position)
        return MemoriesResponse(
            memories=[summarize_memory(head) for head in part.memories], next_cursor=part.cursor
        )

    async def show(self, tenant: str, memory_id: str) -> MemoryInfo:
        """Describe a memory.

        Raises:
            MemoryNotFoundError: No memory of the tenant has that id.
            BlobError: The memory is damaged.
            StoreUnavailableError: The store cannot be reached.
        """
        return describe_memory(*await self._fetch(tenant, memory_id))

    async def delete(self, tenant: str, memory_id: str) -> None:
        """Delete a memory for good.

        Raises:
            MemoryNotFoundError: No memory of the tenant has that id.
            StoreUnavailableError: The store cannot be reached.
        """
        try:
            await self._store.delete(tenant, memory_id)
        finally:  # it may be gone, whatever the store says
            self._forget(tenant, memory_id)
        audit("memory.delete", memory_id=memory_id)

    async def delete_many(self, tenant: str, request: DeleteRequest) -> DeleteResponse:
        """Delete memories for good: those named, or the next part of those that pass a filter.

        Raises:
            InputError: The cursor is not one of a list.
            StoreUnavailableError: The store cannot be reached; some may have been deleted.
        """
        memory_ids, cursor = request.memory_ids or [], None
        if request.filter is not None:
            wanted = MemoryFilter(**request.filter.model_dump(exclude_none=True))
            part = await self.list(tenant, wanted, limit=MAX_LIST, cursor=request.cursor)
            memory_ids = [memory.memory_id for memory in part.memories]
            cursor = part.next_cursor
        deleted = await self._store.delete_many(tenant, dict.fromkeys(memory_ids))
        for memory_id in deleted:
            self._forget(tenant, memory_id)
            audit("memory.delete", memory_id=memory_id)
        return DeleteResponse(deleted=len(deleted), next_cursor=cursor)

    async def delete_page(self, tenant: str, memory_id: str, page_id: str) -> None:
        """Delete a page of a memory for good, and those that continue it.

        Raises:
            NotFoundError: No memory of the tenant has that id, or no page of it.
            InputError: The memory has no other page.
            MemoryChangedError: Others kept changing the memory.
            StoreUnavailableError: The store cannot be reached.
        """
        await self._change_pages(tenant, memory_id, partial(without_page, page_id), NO_QUOTA)
        self._forget(tenant, memory_id)
        audit("memory.delete_page", memory_id=memory_id, page_id=page_id)

    async def _fetch(self, tenant: str, memory_id: str) -> tuple[StoredMemory, Blob]:
        """Return a memory as it is in the store, and its blob, which an earlier call may have kept.

        Raises:
            MemoryNotFoundError: No memory of the tenant has that id.
            BlobError: The memory is damaged.
            StoreUnavailableError: The store cannot be reached.
        """
        dropped = self._dropped
        try:
            stored = await self._store.get(tenant, memory_id)
        except MemoryNotFoundError:
            if self._decoded.get(memory_key(tenant, memory_id)) is not None:
                self._forget(tenant, memory_id)  # it has expired, or another service deleted it
            raise
        kept = self._decoded.get(stored.key)
        if kept is not None and kept.data == stored.blob:
            return stored, kept.blob
        blob = await call_by_size(len(stored.blob), self._unpack, stored)
        if self._dropped == dropped:  # else it may be this memory that was deleted meanwhile
            self._decoded.put(stored.key, _Decoded(stored.blob, blob))
        return stored, blob

    def _open(self, stored: StoredMemory, blob: Blob, model: str | None) -> OpenMemory:
        if model is None:
            checkpoint = self._models.find_writer(blob.info.fingerprint, stored.model)
        else:
            checkpoint = self._models.get(model)
            check_fingerprint(blob, checkpoint.fingerprint)
        config, backbone = checkpoint.model.config, checkpoint.model.backbone
        check_shape(blob, vectors=config.memory_tokens, width=backbone.width)
        return OpenMemory(stored, blob, checkpoint)

    def _forget(self, tenant: str, memory_id: str) -> None:
        """Drop all that is kept of a memory: it was deleted, or pages of it were."""
        key = memory_key(tenant, memory_id)
        self._drop_decoded(key)
        self._engine.forget(key)

    def _drop_decoded(self, key: str) -> None:
        self._decoded.remove(key)
        self._dropped += 1

    def _apply(
        self, change: Callable[[Blob], Pages], stored: StoredMemory
    ) -> tuple[StoredMemory, Blob]:
        old = self._unpack(stored)
        vectors, infos = change(old)
        if len(infos) > len(old.info.pages):
            self.check_page_count(len(infos))
        new = Blob(vectors, self.dtype, old.info.model_copy(update={"pages": infos}))
        changed = replace(stored, blob=pack(vectors, new.info, dtype=self.dtype))
        return self._keyring.seal(changed), new

    def _unpack(self, stored: StoredMemory) -> Blob:
        """Decrypt and decode the blob of a memory.

        Raises:
            BlobError: It is damaged, or that of another tenant.
            EncryptionKeyError: The key that encrypted it is missing.
        """
        blob = unpack(self._keyring.open(stored))
        if blob.info.tenant != stored.tenant:
            raise BlobError("the stored memory belongs to another tenant; write the document again")
        return blob


def _count_fitting(heads: Sequence[MemoryHead]) -> int:
    """Return how many of the first memories fit into a part of a list, at least one."""
    ends = accumulate(
        sum(len(key) + len(value) for key, value in head.metadata.items()) for head in heads
    )
    return max(1, sum(end <= MAX_LIST_CHARACTERS for end in ends))


def _patch(changes: MemoryPatch, stored: StoredMemory) -> StoredMemory:
    """Change what a patch names (RFC 7396).

    Raises:
        InputError: The metadata would have too many entries.
    """
    fields: dict[str, Any] = {}
    if "name" in changes.model_fields_set:
        fields["name"] = changes.name
    if "metadata" in changes.model_fields_set:
        merged = {**stored.metadata, **changes.metadata} if changes.metadata is not None else {}
        metadata = {key: value for key, value in merged.items() if value is not None}
        if len(metadata) > MAX_METADATA:
            raise InputError(
                f"the metadata would have {len(metadata)} entries, and at most {MAX_METADATA} are"
                " kept; remove some by giving them the value null",
                limit=MAX_METADATA,
            )
        fields["metadata"] = metadata
    if "ttl_seconds" in changes.model_fields_set:
        seconds = changes.ttl_seconds
        fields["expires_at"] = seconds and datetime.now(UTC) + timedelta(seconds=seconds)
    return replace(stored, **fields)
