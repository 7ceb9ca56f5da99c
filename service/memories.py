"""What can be done with memories: write, read, show and delete them."""

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar
from weakref import WeakValueDictionary

import torch

from gradmem_core.blob import Blob, BlobInfo, PageInfo, check_fingerprint, pack, unpack
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.config import BlobDtype
from gradmem_core.errors import InputError, MemoryChangedError, TooManyPagesError
from gradmem_core.limits import check_steps
from gradmem_core.prompt_embeds import export_prompt_embeds
from gradmem_core.reading.answers import Answer
from gradmem_core.reading.decoding import Sampling
from gradmem_core.reading.generation import check_queries
from gradmem_core.texts.documents import (
    Document,
    check_pages,
    decode_answer,
    prepare_document,
    prepare_query,
)
from gradmem_core.writing.compression import MemoryPage, compress
from service.engine import Engine, StepMade, TokenChosen
from service.engine.worker import EngineWorker
from service.models import Models
from service.pages import Pages, memory_info, page_place, without_page
from service.schemas import (
    AnswerInfo,
    MemoryInfo,
    ReadRequest,
    ReadResponse,
    Reason,
    StepEvent,
    TokenEvent,
    WriteRequest,
    WriteResult,
)
from service.stores import Store, StoredMemory, new_memory_id

T = TypeVar("T")

SMALL = 2**16
"Most bytes of memories and queries that the event loop itself decodes: a millisecond's work."
CHANGES = 10
"How often a change is tried when other services change the memory at the same time."


class Memories:
    """Brings models, engine and store together. Documents are forgotten once they are written.

    Args:
        models: The served checkpoints.
        engine: Does the work on the device.
        store: Keeps the blobs.
        dtype: How a blob holds the elements of a memory.
        max_pages: Most pages of a memory.
    """

    def __init__(
        self, models: Models, engine: Engine, store: Store, *, dtype: BlobDtype, max_pages: int
    ) -> None:
        self._models = models
        self._engine = engine
        self._store = store
        self._dtype: BlobDtype = dtype
        self._max_pages = max_pages
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def write(
        self, request: WriteRequest, listener: Callable[[StepEvent], None] | None = None
    ) -> WriteResult:
        """Compress a document and store its memory, or add its pages to an older memory.

        Args:
            request: What to write.
            listener: Told of every gradient step.

        Raises:
            GradMemError: The model or the older memory is unknown, the document or the steps are
                refused, or engine or store failed; nothing is stored then.
        """
        checkpoint, there = await self._writer_of(request)
        worker = EngineWorker(
            self._engine,
            checkpoint,
            deadline=self._engine.deadline(request.timeout),
            listener=None if listener is None else _steps_told(listener),
        )
        document = await self._parsed(checkpoint, request.document, there)
        made = await compress(
            worker,
            checkpoint,
            document.pages,
            checkpoint.model.config.write_steps if request.steps is None else request.steps,
            dtype=self._dtype,
            verify=request.verify,
            max_pages=self._max_pages - there,
        )
        added = _described(made, request.document)
        if request.append_to is None:
            stored, blob = await self._put(checkpoint, request, added)
        else:
            stored, blob = await self._change(request.append_to, partial(self._appended, added))
        return WriteResult(
            **memory_info(stored, blob).model_dump(),
            duplicate_keys=document.duplicate_keys,
            skipped_lines=document.skipped_lines,
        )

    async def read(
        self, request: ReadRequest, listener: Callable[[TokenEvent], None] | None = None
    ) -> ReadResponse:
        """Answer the queries of a request from its memory alone; `listener` is told every token.

        Raises:
            GradMemError: The memory is unknown or of another checkpoint, a query is refused, or
                engine or store failed.
        """
        stored = await self._store.get(request.memory_id)
        texts = request.asked()
        size = len(stored.blob) + sum(map(len, texts))
        checkpoint, blob = await _called(size, self._opened, stored)
        queries, sampling = await _called(size, _checked, request, checkpoint)
        pages = blob.info.pages
        told = None
        # Of several pages, and of lists, it is known at the end only what answers.
        if listener is not None and checkpoint.task.document_format == "text" and len(pages) == 1:
            told = _tokens_told(listener, checkpoint, len(queries))
        answers = await self._engine.read_pages(
            checkpoint,
            blob.memory,
            [(stored.memory_id, page.page_id) for page in pages],
            queries,
            sampling,
            # The same document, written again, is another one: it may take back what came between.
            documents=[(page.document_sha256, page.created_at) for page in pages],
            deadline=self._engine.deadline(request.timeout),
            listener=told,
        )
        least = _least_confidence(request, checkpoint)
        infos = [
            _answer_info(checkpoint, text, answer, pages[answer.page].page_id, least)
            for text, answer in zip(texts, answers, strict=True)
        ]
        if listener is not None and told is None:
            for number, info in enumerate(infos):
                if info.answer is not None:
                    listener(TokenEvent(query=number, text=info.answer))
        return ReadResponse(answers=infos, tokens=sum(info.tokens for info in infos))

    async def show(self, memory_id: str) -> MemoryInfo:
        """What is known of a memory.

        Raises:
            MemoryNotFoundError: There is none of that id.
            BlobError: It is damaged.
            StoreUnavailableError: The store cannot be reached.
        """
        stored = await self._store.get(memory_id)
        return memory_info(stored, await _called(len(stored.blob), unpack, stored.blob))

    async def prompt_embeds(self, memory_id: str, page_id: str | None) -> bytes:
        """A memory as another engine takes it in place of embeddings of tokens, as safetensors.

        Args:
            memory_id: The memory's handle.
            page_id: Which page; None where there is one only.

        Raises:
            NotFoundError: There is no such memory, or no such page in it.
            InputError: It has several pages and none is named.
            FingerprintMismatchError: It is of another checkpoint.
            StoreUnavailableError: The store cannot be reached.
        """
        stored = await self._store.get(memory_id)
        checkpoint, blob = await _called(len(stored.blob), self._opened, stored)
        memory = blob.memory[page_place(blob, page_id)]  # (m, d)
        return await asyncio.to_thread(export_prompt_embeds, checkpoint.model, memory)

    async def delete(self, memory_id: str) -> None:
        """Delete a memory for good.

        Raises:
            MemoryNotFoundError: There is none of that id.
            StoreUnavailableError: The store cannot be reached.
        """
        self._engine.forget(memory_id)
        await self._store.delete(memory_id)

    async def delete_page(self, memory_id: str, page_id: str) -> None:
        """Delete a page of a memory for good.

        Raises:
            NotFoundError: There is no such memory, or no such page in it.
            InputError: It is the memory's only page.
            MemoryChangedError: Others kept changing the memory.
            StoreUnavailableError: The store cannot be reached.
        """
        await self._change(memory_id, partial(without_page, page_id))
        self._engine.forget(memory_id)

    async def check(self) -> None:
        """Write and read a tiny memory of every model on the device, and ask the store.

        Raises:
            GradMemError: One of them does not work.
        """
        models = self._models.all()
        await asyncio.gather(self._store.ping(), *(self._check_model(model) for model in models))

    async def _check_model(self, checkpoint: Checkpoint) -> None:
        page = prepare_document(checkpoint, checkpoint.task.example_document, max_pages=1).pages[0]
        (written,) = await self._engine.write_pages(checkpoint, [page.ids], 1)
        query = prepare_query(checkpoint, checkpoint.task.example_query)
        sampling = Sampling(max_new_tokens=1)
        await self._engine.read_pages(checkpoint, written.memory[None], None, [query], [sampling])

    async def _writer_of(self, request: WriteRequest) -> tuple[Checkpoint, int]:
        """The checkpoint that writes a document, and how many pages its memory has already."""
        if request.append_to is None:
            checkpoint, there = self._models.get(request.model), 0
        else:
            stored = await self._store.get(request.append_to)
            checkpoint, blob = await _called(len(stored.blob), self._opened, stored, request.model)
            if not checkpoint.takes_pages:
                raise InputError(
                    f"append_to is for checkpoints whose memories have pages, and {checkpoint.name}"
                    " has one page; write the document as a memory of its own"
                )
            there = len(blob.info.pages)
        if isinstance(request.steps, int):
            check_steps(checkpoint.model.config, request.steps)
        return checkpoint, there

    def _opened(self, stored: StoredMemory, model: str | None = None) -> tuple[Checkpoint, Blob]:
        """A memory, and the checkpoint of that name, or of its own, which has to be its writer."""
        blob = unpack(stored.blob)
        checkpoint = self._models.get(model or stored.model)
        check_fingerprint(blob, checkpoint.fingerprint)
        return checkpoint, blob

    async def _parsed(self, checkpoint: Checkpoint, text: str, there: int) -> Document:
        """A document's pages, beside those that are there; parsing may take seconds."""
        room = max(0, self._max_pages - there)
        try:
            return await asyncio.to_thread(prepare_document, checkpoint, text, max_pages=room)
        except TooManyPagesError as error:
            if not there:
                raise
            raise TooManyPagesError(
                f"the memory has {there} of at most {self._max_pages} pages already;"
                f" {error.message}",
                limit=self._max_pages,
            ) from error

    async def _put(
        self, checkpoint: Checkpoint, request: WriteRequest, added: Pages
    ) -> tuple[StoredMemory, Blob]:
        """Store a new memory."""
        memory, pages = added
        blob = Blob(memory, self._dtype, BlobInfo(fingerprint=checkpoint.fingerprint, pages=pages))
        now, ttl = pages[0].created_at, request.ttl_seconds
        stored = StoredMemory(
            memory_id=new_memory_id(),
            model=checkpoint.name,
            blob=await asyncio.to_thread(pack, memory, blob.info, dtype=self._dtype),
            metadata=request.metadata,
            created_at=now,
            expires_at=None if ttl is None else now + timedelta(seconds=ttl),
        )
        await self._store.put(stored)
        return stored, blob

    async def _change(
        self, memory_id: str, change: Callable[[Blob], Pages]
    ) -> tuple[StoredMemory, Blob]:
        """Store other pages of a memory; again, where others changed it at the same time."""
        # Changes of this service take turns, or of many at once some would never be first.
        turn = self._changing.setdefault(memory_id, asyncio.Lock())
        async with turn:
            for _ in range(CHANGES):
                stored = await self._store.get(memory_id)
                changed, blob = await asyncio.to_thread(self._changed, stored, change)
                if await self._store.replace(stored, changed):
                    return changed, blob
        raise MemoryChangedError(
            f"others changed the memory {CHANGES} times meanwhile; nothing of this was stored, try"
            " again"
        )

    def _changed(
        self, stored: StoredMemory, change: Callable[[Blob], Pages]
    ) -> tuple[StoredMemory, Blob]:
        blob = unpack(stored.blob)
        memory, pages = change(blob)
        info = BlobInfo(fingerprint=blob.info.fingerprint, pages=pages)
        changed = replace(stored, blob=pack(memory, info, dtype=self._dtype))
        return changed, Blob(memory, self._dtype, info)

    def _appended(self, added: Pages, blob: Blob) -> Pages:
        memory, pages = added
        check_pages(len(pages), self._max_pages - len(blob.info.pages))
        return torch.cat([blob.memory, memory]), blob.info.pages + pages


async def _called(size: int, function: Callable[..., T], *arguments: object) -> T:
    """Call a function, off the event loop where its input is large."""
    if size <= SMALL:
        return function(*arguments)
    return await asyncio.to_thread(function, *arguments)


def _checked(
    request: ReadRequest, checkpoint: Checkpoint
) -> tuple[list[list[int]], list[Sampling]]:
    """The queries of a request as the checkpoint takes them, with their settings."""
    queries = [prepare_query(checkpoint, text) for text in request.asked()]
    sampling = _sampling(request, checkpoint, len(queries))
    check_queries(checkpoint.model, queries, sampling)
    return queries, sampling


def _described(made: Sequence[MemoryPage], document: str) -> Pages:
    """Say what is known of the pages of a document that was just written."""
    now, digest = datetime.now(UTC), hashlib.sha256(document.encode()).hexdigest()
    known = tuple(
        PageInfo(
            page_id=secrets.token_hex(8),
            write_steps=one.written.steps,
            tokens=len(one.page.ids),
            records=one.page.records,
            document_sha256=digest,
            losses=tuple(one.written.losses),
            write_accuracy=one.written.write_accuracy,
            first_line=min(filter(None, one.page.lines), default=None),
            last_line=max(one.page.lines, default=None),
            read_back=one.read_back,
            created_at=now,
        )
        for one in made
    )
    return torch.stack([one.written.memory for one in made]), known


def _steps_told(listener: Callable[[StepEvent], None]) -> Callable[[StepMade], None]:
    def told(event: StepMade) -> None:
        listener(StepEvent(page=event.page, step=event.step, loss=event.loss))

    return told


def _tokens_told(
    listener: Callable[[TokenEvent], None], checkpoint: Checkpoint, queries: int
) -> Callable[[TokenChosen], None]:
    """Turn tokens into what each adds to its answer's text."""
    so_far: list[list[int]] = [[] for _ in range(queries)]

    def told(event: TokenChosen) -> None:
        if event.token in checkpoint.stop_ids:
            return
        ids = so_far[event.query]
        before = checkpoint.tokenizer.decode(ids).lstrip()
        ids.append(event.token)
        text = checkpoint.tokenizer.decode(ids).lstrip()
        listener(TokenEvent(query=event.query, text=text[len(before) :]))

    return told


def _sampling(request: ReadRequest, checkpoint: Checkpoint, queries: int) -> list[Sampling]:
    """One setting for each query; draws of one request differ by the query's place."""
    limit = checkpoint.model.config.max_answer_tokens
    return [
        Sampling(
            max_new_tokens=request.max_new_tokens or limit,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=(request.seed + index) % 2**63,
        )
        for index in range(queries)
    ]


def _least_confidence(request: ReadRequest, checkpoint: Checkpoint) -> float:
    """Confidence below which an answer counts as not found."""
    if request.min_confidence is not None:
        return request.min_confidence
    return checkpoint.min_confidence


def _answer_info(
    checkpoint: Checkpoint, query: str, answer: Answer, page_id: str, least: float
) -> AnswerInfo:
    text = decode_answer(checkpoint, answer)
    reason: Reason | None = None
    if text is None:
        reason = "not stated"
    elif answer.confidence < least:
        reason = "below threshold"
    return AnswerInfo(
        query=query,
        found=reason is None,
        answer=text if reason is None else None,
        reason=reason,
        page_id=page_id,
        confidence=answer.confidence,
        tokens=len(answer.tokens),
        finish_reason=answer.finish_reason,
    )
