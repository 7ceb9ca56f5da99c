"""What can be done with memories: write, read, show and delete them."""

import asyncio
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from gradmem_core.blob import BlobInfo, pack, require_fingerprint, unpack
from gradmem_core.checkpoint import Checkpoint
from gradmem_core.config import BlobDtype
from gradmem_core.decode import Answer, Sampling
from gradmem_core.generate import check_queries, check_query
from gradmem_core.write import check_context, check_steps
from service.engine import (
    Engine,
    Event,
    ReadWork,
    StepMade,
    TokenChosen,
    WriteWork,
    WrittenMemory,
)
from service.models import Models
from service.schemas import (
    AnswerInfo,
    MemoryInfo,
    ReadRequest,
    ReadResponse,
    StepEvent,
    TokenEvent,
    WriteRequest,
)
from service.stores import Store, StoredMemory, new_memory_id


class Memories:
    """Brings models, engine and store together. Documents are forgotten once they are written.

    Args:
        models: The served checkpoints.
        engine: Does the work on the device.
        store: Keeps the blobs.
        dtype: How a blob holds the elements of a memory.
    """

    def __init__(self, models: Models, engine: Engine, store: Store, *, dtype: BlobDtype) -> None:
        self._models = models
        self._engine = engine
        self._store = store
        self._dtype: BlobDtype = dtype

    async def write(
        self, request: WriteRequest, listener: Callable[[StepEvent], None] | None = None
    ) -> MemoryInfo:
        """Compress a document and store its memory; `listener` is told of every gradient step.

        Raises:
            GradMemError: The model is unknown, the document or the steps are refused, or engine or
                store failed; nothing is stored then.
        """
        checkpoint = self._models.get(request.model)
        config = checkpoint.model.config
        steps = config.write_steps if request.steps is None else request.steps
        if steps != "auto":
            check_steps(config, steps)
        # A text that cannot fit is refused before its tokens are counted, which takes time.
        check_context(config, checkpoint.tokenizer.fewest_tokens(request.document))
        ids = checkpoint.tokenizer.encode(request.document)
        check_context(config, len(ids))
        written = await self._engine.write(
            WriteWork(checkpoint, ids, steps),
            seconds=request.timeout,
            listener=None if listener is None else _steps_told(listener),
        )
        now = datetime.now(UTC)
        info = _blob_info(checkpoint, request.document, len(ids), written, now)
        blob = pack(written.memory, info, dtype=self._dtype)
        ttl = request.ttl_seconds
        stored = StoredMemory(
            memory_id=new_memory_id(),
            model=checkpoint.name,
            blob=blob,
            metadata=request.metadata,
            created_at=now,
            expires_at=None if ttl is None else now + timedelta(seconds=ttl),
        )
        await self._store.put(stored)
        return _memory_info(stored, info, self._dtype)

    async def read(
        self, request: ReadRequest, listener: Callable[[TokenEvent], None] | None = None
    ) -> ReadResponse:
        """Answer the queries of a request from its memory alone; `listener` is told every token.

        Raises:
            GradMemError: The memory is unknown or of another checkpoint, a query is refused, or
                engine or store failed.
        """
        stored = await self._store.get(request.memory_id)
        blob = unpack(stored.blob)
        checkpoint = self._models.get(stored.model)
        require_fingerprint(blob, checkpoint.fingerprint)
        texts = request.asked()
        for text in texts:
            check_query(checkpoint.model.config, checkpoint.tokenizer.fewest_tokens(text))
        queries = [checkpoint.tokenizer.encode(text) for text in texts]
        sampling = _sampling(request, checkpoint, len(queries))
        check_queries(checkpoint.model, queries, sampling)
        work = ReadWork(checkpoint, blob.memory, queries, sampling, stored.memory_id)
        answers = await self._engine.read(
            work,
            seconds=request.timeout,
            listener=None if listener is None else _tokens_told(listener, checkpoint, len(queries)),
        )
        infos = [
            _answer_info(checkpoint, text, answer)
            for text, answer in zip(texts, answers, strict=True)
        ]
        return ReadResponse(answers=infos, tokens=sum(info.tokens for info in infos))

    async def show(self, memory_id: str) -> MemoryInfo:
        """What is known of a memory.

        Raises:
            MemoryNotFoundError: There is none of that id.
            BlobError: It is damaged.
            StoreUnavailableError: The store cannot be reached.
        """
        stored = await self._store.get(memory_id)
        blob = unpack(stored.blob)
        return _memory_info(stored, blob.info, blob.dtype)

    async def delete(self, memory_id: str) -> None:
        """Delete a memory for good.

        Raises:
            MemoryNotFoundError: There is none of that id.
            StoreUnavailableError: The store cannot be reached.
        """
        self._engine.forget(memory_id)
        await self._store.delete(memory_id)

    async def check(self) -> None:
        """Write and read a tiny memory of every model on the device, and ask the store.

        Raises:
            GradMemError: One of them does not work.
        """
        models = self._models.all()
        await asyncio.gather(self._store.ping(), *(self._check_model(model) for model in models))

    async def _check_model(self, checkpoint: Checkpoint) -> None:
        ids = checkpoint.tokenizer.encode(checkpoint.task.example_document)
        written = await self._engine.write(WriteWork(checkpoint, ids, steps=1))
        query = checkpoint.tokenizer.encode(checkpoint.task.example_query)
        work = ReadWork(checkpoint, written.memory, [query], [Sampling(max_new_tokens=1)])
        await self._engine.read(work)


def _blob_info(
    checkpoint: Checkpoint,
    document: str,
    tokens: int,
    written: WrittenMemory,
    now: datetime,
) -> BlobInfo:
    return BlobInfo(
        fingerprint=checkpoint.fingerprint,
        write_steps=written.steps,
        tokens=tokens,
        document_sha256=hashlib.sha256(document.encode()).hexdigest(),
        losses=tuple(written.losses),
        recall=written.recall,
        created_at=now,
    )


def _memory_info(stored: StoredMemory, info: BlobInfo, dtype: BlobDtype) -> MemoryInfo:
    return MemoryInfo(
        memory_id=stored.memory_id,
        model=stored.model,
        fingerprint=info.fingerprint,
        tokens=info.tokens,
        write_steps=info.write_steps,
        losses=list(info.losses),
        recall=info.recall,
        bytes=len(stored.blob),
        dtype=dtype,
        created_at=stored.created_at,
        expires_at=stored.expires_at,
        metadata=stored.metadata,
    )


def _steps_told(listener: Callable[[StepEvent], None]) -> Callable[[Event], None]:
    def told(event: Event) -> None:
        assert isinstance(event, StepMade)
        listener(StepEvent(step=event.step, loss=event.loss))

    return told


def _tokens_told(
    listener: Callable[[TokenEvent], None], checkpoint: Checkpoint, queries: int
) -> Callable[[Event], None]:
    """Turn tokens into what each adds to its answer's text."""
    so_far: list[list[int]] = [[] for _ in range(queries)]

    def told(event: Event) -> None:
        assert isinstance(event, TokenChosen)
        if event.token in checkpoint.stop_ids:
            return
        ids = so_far[event.query]
        before = checkpoint.tokenizer.decode(ids)
        ids.append(event.token)
        text = checkpoint.tokenizer.decode(ids)
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


def _answer_info(checkpoint: Checkpoint, query: str, answer: Answer) -> AnswerInfo:
    return AnswerInfo(
        query=query,
        answer=checkpoint.tokenizer.decode(answer.tokens),
        confidence=answer.confidence,
        tokens=len(answer.tokens),
        finish_reason=answer.finish_reason,
    )
