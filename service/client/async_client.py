"""`AsyncClient`: `Client` for asyncio."""

from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self, Unpack

import httpx

from service.client import calls
from service.client.client import LIST_PART, TIMEOUT_SECONDS
from service.client.errors import ClientError, ProblemError
from service.client.jobs import AsyncSubmittedJob
from service.client.memories import WRITING, AsyncMemory, WriteEvent, open_async_result
from service.client.options import BatchDocument, FilterOptions, WriteOptions
from service.client.retries import MAX_RETRIES
from service.client.sessions import AsyncSession
from service.client.streams import AsyncStream
from service.jobs.schemas import JobInfo
from service.schemas import (
    LimitsResponse,
    MemoryInfo,
    MemorySummary,
    ModelInfo,
    WriteResult,
)


class AsyncClient:
    """`Client` for asyncio: the same arguments, results and errors.

    Use it as `async with AsyncClient() as client:`, or await `aclose` last.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        key: str | None = None,
        timeout_seconds: float | None = TIMEOUT_SECONDS,
        max_retries: int = MAX_RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._session = AsyncSession(base_url, key, timeout_seconds, max_retries, transport)

    @property
    def base_url(self) -> str:
        """The base URL of the service."""
        return self._session.base_url

    async def write(
        self, document: str, **options: Unpack[WriteOptions]
    ) -> AsyncMemory[WriteResult]:
        """See `Client.write`."""
        result = await self._session.send(calls.write(document, options))
        return AsyncMemory(self._session, result.memory_id, result)

    async def write_many(
        self, documents: Sequence[str | BatchDocument], **options: Unpack[WriteOptions]
    ) -> list[AsyncMemory[WriteResult] | ProblemError]:
        """See `Client.write_many`."""
        results = await self._session.send(calls.write_many(documents, options))
        return [open_async_result(self._session, result) for result in results]

    async def submit(
        self,
        documents: Sequence[str | BatchDocument],
        *,
        webhook_url: str | None = None,
        **options: Unpack[WriteOptions],
    ) -> AsyncSubmittedJob[JobInfo]:
        """See `Client.submit`."""
        info = await self._session.send(calls.submit(documents, options, webhook_url=webhook_url))
        return AsyncSubmittedJob(self._session, info.job_id, info)

    def job(self, job_id: str) -> AsyncSubmittedJob[None]:
        """See `Client.job`."""
        return AsyncSubmittedJob(self._session, job_id, None)

    async def jobs(self) -> AsyncIterator[AsyncSubmittedJob[JobInfo]]:
        """See `Client.jobs`."""
        parts = self._session.send_in_parts(
            lambda cursor: calls.list_jobs(limit=LIST_PART, cursor=cursor)
        )
        async for part in parts:
            for info in part.jobs:
                yield AsyncSubmittedJob(self._session, info.job_id, info)

    def write_stream(
        self, document: str, *, recall: bool = False, **options: Unpack[WriteOptions]
    ) -> AsyncStream[WriteEvent, WriteResult]:
        """See `Client.write_stream`."""
        call = calls.stream_write(document, options, recall=recall)
        return self._session.stream(call, WRITING)

    def memory(self, memory_id: str) -> AsyncMemory[None]:
        """See `Client.memory`."""
        return AsyncMemory(self._session, memory_id, None)

    async def memories(
        self, **wanted: Unpack[FilterOptions]
    ) -> AsyncIterator[AsyncMemory[MemorySummary]]:
        """See `Client.memories`."""
        parts = self._session.send_in_parts(
            lambda cursor: calls.list_memories(wanted, limit=LIST_PART, cursor=cursor)
        )
        async for part in parts:
            for summary in part.memories:
                yield AsyncMemory(self._session, summary.memory_id, summary)

    async def import_memory(self, memory_id: str, content: bytes) -> AsyncMemory[MemoryInfo]:
        """See `Client.import_memory`."""
        info = await self._session.send(calls.put_blob(memory_id, content))
        return AsyncMemory(self._session, info.memory_id, info)

    async def delete_many(
        self, memory_ids: Sequence[str] | None = None, **wanted: Unpack[FilterOptions]
    ) -> int:
        """See `Client.delete_many`."""
        named = None if memory_ids is None else list(memory_ids)
        parts = self._session.send_in_parts(lambda cursor: calls.delete_many(named, wanted, cursor))
        return sum([part.deleted async for part in parts])

    async def models(self) -> list[ModelInfo]:
        """See `Client.models`."""
        return await self._session.send(calls.models())

    async def limits(self) -> LimitsResponse:
        """See `Client.limits`."""
        return await self._session.send(calls.limits())

    async def ready(self) -> bool:
        """See `Client.ready`."""
        try:
            await self.check_ready()
        except ClientError:
            return False
        return True

    async def check_ready(self) -> None:
        """See `Client.check_ready`."""
        await self._session.send(calls.ready(), retry=False)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._session.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
