"""WRITE: turn the document of a request into a stored memory."""

import asyncio
import hashlib
import math
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import torch

from gradmem_core.blob import PageInfo
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import InputError, NotFoundError, TooManyPagesError
from gradmem_core.limits import check_steps
from gradmem_core.texts.documents import Document, prepare_document
from gradmem_core.writing.compression import MemoryPage, compress
from service.descriptions import describe_memory
from service.engine import Deadline, Engine, EngineWorker, StepMade, list_writes
from service.memories import Memories
from service.models import Models
from service.offload import call_by_size
from service.pages import Pages, find_page, name_pages
from service.readiness import Readiness
from service.schemas import (
    DocumentRequest,
    MemoryInfo,
    PageRequest,
    RecallEvent,
    StepEvent,
    TokenRecall,
    WriteRequest,
    WriteResult,
)
from service.stores import Quota

EmitProgress = Callable[[StepEvent | RecallEvent], None]
PAGE_ID_BYTES = 8


@dataclass(frozen=True)
class _Destination:
    """The memory for which pages are written."""

    checkpoint: Checkpoint
    "The checkpoint that writes."
    is_new: bool = False
    kept: int = 0
    "Pages that it keeps."
    replaced: int = 0
    "Pages that it loses."


class DocumentWriter:
    """Writes documents into memories; the text is forgotten once the memory is written.

    Args:
        models: The served checkpoints.
        engine: The engine that does the work on the device.
        memories: The stored memories.
        readiness: The state of the store.
    """

    def __init__(
        self, models: Models, engine: Engine, memories: Memories, readiness: Readiness
    ) -> None:
        self._models = models
        self._engine = engine
        self._memories = memories
        self._readiness = readiness

    async def write(
        self,
        request: WriteRequest,
        emit: EmitProgress | None = None,
        *,
        tenant: str,
        quota: Quota,
        share: str = "",
        write_id: str | None = None,
        is_new: bool = False,
    ) -> WriteResult:
        """Compress a document and store its memory, or add its pages to an older memory.

        Args:
            request: The document and its options.
            emit: Called with every gradient step and, where asked for, with what is recalled.
            tenant: The tenant whose memory it is.
            quota: Most that the tenant may have in the store.
            share: The client, which gets a fair share of the device.
            write_id: Id of this WRITE, where that was noted down beforehand: the id of a new
                memory, or the beginning of it that of the first page added to an older one. What
                has been written under it is not written again.
            is_new: True where nothing can have been written under the id.

        Raises:
            GradMemError: The model or the older memory is unknown, the document or the steps are
                refused, the tenant has no room left, or engine or store failed. A new memory is not
                stored then; pages for an older one, or what has a `write_id`, may be, where only
                the reply of the store was lost.
        """
        deadline = self._engine.deadline(request.timeout)
        if write_id is not None and not is_new:
            with suppress(NotFoundError):
                return await self.find(request, tenant=tenant, write_id=write_id)
        destination = await self._find_destination(tenant, request)
        document, pages = await self._compress(
            destination,
            request,
            emit,
            tenant=tenant,
            quota=quota,
            share=share,
            deadline=deadline,
        )
        if request.append_to is None:
            memory = await self._memories.add(
                destination.checkpoint,
                pages,
                tenant=tenant,
                quota=quota,
                name=request.name,
                metadata=request.metadata,
                ttl_seconds=request.ttl_seconds,
                memory_id=write_id,
            )
        else:
            if write_id is not None:
                pages = name_pages(_first_page_id(write_id), pages)
            memory = await self._memories.append(tenant, request.append_to, pages, quota)
        return await _describe_result(request, memory, document)

    async def find(self, request: WriteRequest, *, tenant: str, write_id: str) -> WriteResult:
        """Return the result of an earlier WRITE.

        Args:
            request: The document and its options.
            tenant: The tenant whose memory it is.
            write_id: Id of the WRITE, see `write`.

        Raises:
            NotFoundError: Nothing has been written under the id, or it is gone.
            FingerprintMismatchError: The checkpoint that wrote it is not served any more.
            BlobError: The memory is damaged.
            StoreUnavailableError: The store cannot be reached.
        """
        if request.append_to is None:
            memory = await self._memories.find_written(tenant, memory_id=write_id)
        else:
            memory = await self._memories.find_written(
                tenant, memory_id=request.append_to, page_id=_first_page_id(write_id)
            )
        document = await self._parse(memory.checkpoint, request.document, 0)
        described = describe_memory(memory.stored, memory.blob)
        return await _describe_result(request, described, document)

    async def write_page(
        self,
        request: PageRequest,
        emit: EmitProgress | None = None,
        *,
        tenant: str,
        memory_id: str,
        page_id: str,
        quota: Quota,
        share: str = "",
    ) -> WriteResult:
        """Compress a document and put its pages in the place of a page of a memory.

        Args:
            request: The document and its options.
            emit: Called with every gradient step and, where asked for, with what is recalled.
            tenant: The tenant whose memory it is.
            memory_id: The memory's handle.
            page_id: The page, with those that continue it.
            quota: Most that the tenant may have in the store.
            share: The client, which gets a fair share of the device.

        Raises:
            GradMemError: The memory or its page is unknown, its checkpoint is not served, the
                document or the steps are refused, the tenant has no room left, or engine or store
                failed. The memory stays as it was then, unless only the reply of the store was
                lost.
        """
        deadline = self._engine.deadline(request.timeout)
        memory = await self._memories.open(tenant, memory_id)
        replaced = len(find_page(memory.blob, page_id))
        document, pages = await self._compress(
            _Destination(
                memory.checkpoint,
                kept=len(memory.blob.info.pages) - replaced,
                replaced=replaced,
            ),
            request,
            emit,
            tenant=tenant,
            quota=quota,
            share=share,
            deadline=deadline,
        )
        changed = await self._memories.replace_page(tenant, memory_id, page_id, pages, quota)
        return await _describe_result(request, changed, document)

    async def _find_destination(self, tenant: str, request: WriteRequest) -> _Destination:
        if request.append_to is None:
            return _Destination(self._models.get(request.model), is_new=True)
        memory = await self._memories.open(tenant, request.append_to, request.model)
        checkpoint = memory.checkpoint
        if not checkpoint.takes_pages:
            raise InputError(
                "append_to is for checkpoints whose memories have pages, and those of"
                f" {checkpoint.name} have only one; write the document as a new memory"
            )
        return _Destination(checkpoint, kept=len(memory.blob.info.pages))

    async def _compress(
        self,
        destination: _Destination,
        request: DocumentRequest,
        emit: EmitProgress | None,
        *,
        tenant: str,
        quota: Quota,
        share: str,
        deadline: Deadline,
    ) -> tuple[Document, Pages]:
        """Write a document into pages, if there is room for them."""
        if request.recall and emit is None:
            raise InputError(
                "recall is sent as events; send Accept: text/event-stream, or leave it out"
            )
        checkpoint = destination.checkpoint
        if isinstance(request.steps, int):
            check_steps(checkpoint.model.config, request.steps)
        document = await self._parse(checkpoint, request.document, destination.kept)
        await self._memories.check_room(
            tenant,
            quota,
            checkpoint,
            memories=int(destination.is_new),
            pages=len(document.pages) - destination.replaced,
        )
        steps = checkpoint.model.config.write_steps if request.steps is None else request.steps
        works = list_writes(checkpoint, [page.ids for page in document.pages], steps)
        with self._engine.admit(works, share=share, deadline=deadline) as permit:
            await self._readiness.check_store()
            listener = None if emit is None else partial(_emit_step, emit)
            written = await compress(
                EngineWorker(self._engine, checkpoint, permit=permit, listener=listener),
                checkpoint,
                document.pages,
                steps,
                dtype=self._memories.dtype,
                verify=request.verify,
                max_pages=self._memories.max_pages - destination.kept,
            )
        size = len(request.document)
        if request.recall and emit is not None:
            for recall in await call_by_size(size, _describe_recall, checkpoint, written):
                emit(recall)
        return document, await call_by_size(size, _join_pages, written, request.document)

    async def _parse(self, checkpoint: Checkpoint, text: str, kept: int) -> Document:
        """Split a document into pages, in another thread: it may take seconds."""
        most = self._memories.max_pages
        room = max(0, most - kept)
        try:
            return await asyncio.to_thread(prepare_document, checkpoint, text, max_pages=room)
        except TooManyPagesError as error:
            if not kept:
                raise
            raise TooManyPagesError(
                f"the memory keeps {kept} of at most {most} pages; {error.message}",
                limit=most,
            ) from error


async def _describe_result(
    request: DocumentRequest, memory: MemoryInfo, document: Document
) -> WriteResult:
    """Describe a written memory, with remarks on its document."""
    return await call_by_size(len(request.document), _add_remarks, memory, document)


def _add_remarks(memory: MemoryInfo, document: Document) -> WriteResult:
    return WriteResult(
        **memory.model_dump(),
        duplicate_keys=document.duplicate_keys,
        skipped_lines=document.skipped_lines,
    )


def _first_page_id(write_id: str) -> str:
    """Return the id of the first page of a WRITE."""
    return write_id[: 2 * PAGE_ID_BYTES]


def _join_pages(written: Sequence[MemoryPage], document: str) -> Pages:
    """Join the written pages of a document, with the information that is stored with them."""
    created_at = datetime.now(UTC)
    digest = hashlib.sha256(document.encode()).hexdigest()
    infos = tuple(
        PageInfo(
            page_id=secrets.token_hex(PAGE_ID_BYTES),
            write_steps=page.written.steps,
            tokens=len(page.page.ids),
            records=page.page.records,
            document_sha256=digest,
            losses=tuple(page.written.losses),
            write_accuracy=page.written.write_accuracy,
            first_line=page.page.first_line,
            last_line=page.page.last_line,
            read_back=page.read_back,
            created_at=created_at,
        )
        for page in written
    )
    return torch.stack([page.written.memory for page in written]), infos


def _describe_recall(checkpoint: Checkpoint, written: Sequence[MemoryPage]) -> list[RecallEvent]:
    """Describe how well each token of the pages can be told from M0 and from the memory."""
    return [
        RecallEvent(
            page=number,
            tokens=[
                TokenRecall(text=text, before=math.exp(-before), after=math.exp(-after))
                for text, before, after in zip(
                    checkpoint.tokenizer.decode_each(page.page.ids),
                    page.written.token_losses.before,
                    page.written.token_losses.after,
                    strict=True,
                )
            ],
        )
        for number, page in enumerate(written)
    ]


def _emit_step(emit: EmitProgress, step: StepMade) -> None:
    emit(StepEvent(page=step.page, step=step.step, loss=step.loss))
