"""Memories that leave the service and come into it: as blobs, and as vectors for other engines."""

import asyncio
from datetime import UTC

from torch import Tensor

from gradmem_core.blob import Blob, check_shape, unpack
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.config import EmbedsForm
from gradmem_core.errors import BlobError, InputError
from gradmem_core.prompt_embeds import export_prompt_embeds
from gradmem_core.texts.documents import prepare_query
from service.audit_log import audit
from service.descriptions import describe_memory
from service.encryption import Keyring
from service.memories import ELEMENT_BYTES, Memories
from service.models import Models
from service.offload import call_by_size
from service.pages import page_index
from service.refusals import MemoryTakenError
from service.schemas import MemoryInfo
from service.stores import MEMORY_ID, Quota, Store, StoredMemory

LOSS_CHARACTERS = 32
"Longest loss in the description of a page."
PAGE_INFO_BYTES = 2**14
"Most bytes of the rest of the description of a page, and of its share of the header."


class Transfer:
    """The export and import of memories.

    Args:
        memories: The memories.
        models: The served checkpoints.
        store: The store of the blobs.
        keyring: The keys that encrypt the blobs in the store.
    """

    def __init__(self, memories: Memories, models: Models, store: Store, keyring: Keyring) -> None:
        self._memories = memories
        self._models = models
        self._store = store
        self._keyring = keyring

    async def export_blob(self, tenant: str, memory_id: str) -> bytes:
        """Return the decrypted blob of a memory.

        Raises:
            MemoryNotFoundError: No memory of the tenant has that id.
            BlobError: The memory is damaged.
            StoreUnavailableError: The store cannot be reached.
        """
        stored = await self._store.get(tenant, memory_id)
        return await call_by_size(len(stored.blob), self._keyring.open, stored)

    async def import_blob(
        self, tenant: str, memory_id: str, content: bytes, quota: Quota
    ) -> tuple[MemoryInfo, bool]:
        """Store a blob as a memory; one that is there already stays.

        Args:
            tenant: The tenant to whom it belongs.
            memory_id: The memory's handle.
            content: The blob.
            quota: Most that the tenant may have with it.

        Returns:
            The memory, and True where it is new.

        Raises:
            InputError: The bytes are not a blob of a memory of the tenant, or the id is not one.
            TooManyPagesError: The memory has more pages than allowed.
            FingerprintMismatchError: The checkpoint that wrote it is not served.
            MemoryTakenError: Another memory of the tenant has that id.
            QuotaError: The tenant has as much as it may have.
            StoreUnavailableError: The store cannot be reached.
        """
        stored, blob = await call_by_size(len(content), self._adopt, tenant, memory_id, content)
        sealed = await call_by_size(len(content), self._keyring.seal, stored)
        if not await self._store.put_once(sealed, quota):
            if await self.export_blob(tenant, memory_id) != content:
                raise MemoryTakenError
            return await self._memories.show(tenant, memory_id), False
        audit("memory.import", memory_id=memory_id)
        return describe_memory(stored, blob), True

    async def export_embeds(
        self,
        tenant: str,
        memory_id: str,
        page_id: str | None,
        *,
        query: str | None = None,
        form: EmbedsForm,
    ) -> bytes:
        """Export a page as vectors that other engines take in place of token embeddings.

        Args:
            tenant: The tenant whose memory it is.
            memory_id: The memory's handle.
            page_id: The page; None where the memory has only one.
            query: A query, whose token embeddings come after the memory; None for the memory alone.
            form: The form of the export.

        Raises:
            NotFoundError: No memory of the tenant has that id, or no page of it.
            InputError: The memory has several pages and none is named, or the query is refused.
            FingerprintMismatchError: The memory was written by another checkpoint.
            StoreUnavailableError: The store cannot be reached.
        """
        memory = await self._memories.open(tenant, memory_id)
        vectors = memory.blob.memory[page_index(memory.blob, page_id)]  # (m, d)
        return await asyncio.to_thread(_export, memory.checkpoint, vectors, query, form)

    def largest_blob(self) -> int:
        """Return the bytes of the largest blob that the service writes, rounded up."""
        configs = [
            (checkpoint.model.config, checkpoint.model.backbone.width)
            for checkpoint in self._models.all()
        ]
        return max(
            self._memories.max_pages
            * (
                config.memory_tokens * width * ELEMENT_BYTES["float32"]
                + config.max_write_steps * LOSS_CHARACTERS
                + PAGE_INFO_BYTES
            )
            for config, width in configs
        )

    def _adopt(self, tenant: str, memory_id: str, content: bytes) -> tuple[StoredMemory, Blob]:
        """Check a blob from outside; return the memory that it becomes."""
        if not MEMORY_ID.fullmatch(memory_id):
            raise InputError("a memory id is 32 lower-case hexadecimal digits")
        try:
            blob = unpack(content)
            checkpoint = self._models.find_writer(blob.info.fingerprint, "")
            config, backbone = checkpoint.model.config, checkpoint.model.backbone
            check_shape(blob, vectors=config.memory_tokens, width=backbone.width)
        except BlobError as error:
            raise InputError(error.message) from error
        if blob.info.tenant != tenant:
            raise InputError("the blob belongs to another tenant; write the document again")
        pages = blob.info.pages
        self._memories.check_page_count(len(pages))
        if len({page.page_id for page in pages}) < len(pages):
            raise InputError("two pages of the blob have the same id")
        stored = StoredMemory(
            memory_id=memory_id,
            model=checkpoint.name,
            blob=content,
            metadata={},
            created_at=pages[0].created_at.astimezone(UTC),
            tenant=tenant,
        )
        return stored, blob


def _export(checkpoint: Checkpoint, vectors: Tensor, query: str | None, form: EmbedsForm) -> bytes:
    ids = [] if query is None else prepare_query(checkpoint, query)
    return export_prompt_embeds(checkpoint.model, vectors, ids, form=form)
