"""`Client`, a service to write memories to."""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self, Unpack

import httpx

from service.client import calls
from service.client.errors import ClientError, ProblemError
from service.client.jobs import SubmittedJob
from service.client.memories import WRITING, Memory, WriteEvent, open_result
from service.client.options import BatchDocument, FilterOptions, WriteOptions
from service.client.retries import MAX_RETRIES
from service.client.sessions import Session
from service.client.streams import Stream
from service.jobs.schemas import JobInfo
from service.schemas import (
    LimitsResponse,
    MemoryInfo,
    MemorySummary,
    ModelInfo,
    WriteResult,
)

TIMEOUT_SECONDS = 630.0
LIST_PART = 100
"Memories fetched at a time."


class Client:
    """A client of a GradMem service. Use it as `with Client() as client:`, or call `close` last.

    Every method may raise ConnectionFailed, AccessDenied, Overloaded, Unavailable and
    UnexpectedResponse, besides the errors that it lists itself.

    Args:
        base_url: Base URL of the service; by default the environment variable GRADMEM_URL, or port
            8080 of this machine.
        key: Key of the service, if it asks for one; by default the environment variable
            GRADMEM_KEY. An empty one sends none.
        timeout_seconds: Longest wait for each part of a response; a WRITE responds when it is done.
            None waits forever. Connecting may take 10 seconds in any case.
        max_retries: Most attempts of a call after the first; see `service.client.retries`.
        transport: The transport of the requests; the network by default.

    Raises:
        ConnectionFailed: The base URL is not a URL.
        InvalidKey: The key is no text that a header can hold.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        key: str | None = None,
        timeout_seconds: float | None = TIMEOUT_SECONDS,
        max_retries: int = MAX_RETRIES,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._session = Session(base_url, key, timeout_seconds, max_retries, transport)

    @property
    def base_url(self) -> str:
        """The base URL of the service."""
        return self._session.base_url

    def write(self, document: str, **options: Unpack[WriteOptions]) -> Memory[WriteResult]:
        """Compress a document into a memory; the service forgets the text.

        Args:
            document: The text.
            options: See `WriteOptions`.

        Raises:
            InvalidRequest: The document, the steps or another argument is refused.
            TypeError: An argument is of a type that JSON does not have, as bytes.
            ValueError: The idempotency key is not visible ASCII.
            NotFound: No such model is served.
        """
        result = self._session.send(calls.write(document, options))
        return Memory(self._session, result.memory_id, result)

    def write_many(
        self, documents: Sequence[str | BatchDocument], **options: Unpack[WriteOptions]
    ) -> list[Memory[WriteResult] | ProblemError]:
        """Write many documents, each into a memory of its own, in one request.

        Args:
            documents: Up to 256 texts, or documents with options of their own.
            options: Options of all documents; a document's own come before them. See
                `WriteOptions`.

        Returns:
            In the order of the documents, the memory or the error, which is not raised.

        Raises:
            InvalidRequest: The request as a whole is refused, for its size or an option.
            TypeError: An argument is of a type that JSON does not have, as bytes.
            ValueError: The idempotency key is not visible ASCII.
        """
        results = self._session.send(calls.write_many(documents, options))
        return [open_result(self._session, result) for result in results]

    def submit(
        self,
        documents: Sequence[str | BatchDocument],
        *,
        webhook_url: str | None = None,
        **options: Unpack[WriteOptions],
    ) -> SubmittedJob[JobInfo]:
        """Have documents written after the response, each into a memory of its own.

        The job is stored: it survives the service. See `write_many` for the errors.

        Args:
            documents: See `write_many`.
            webhook_url: Address to which the service sends the end of the job; its host has to be
                one that the operator allows.
            options: See `write_many`.
        """
        info = self._session.send(calls.submit(documents, options, webhook_url=webhook_url))
        return SubmittedJob(self._session, info.job_id, info)

    def job(self, job_id: str) -> SubmittedJob[None]:
        """Return the job of a handle; nothing is sent, and it need not exist."""
        return SubmittedJob(self._session, job_id, None)

    def jobs(self) -> Iterator[SubmittedJob[JobInfo]]:
        """Iterate over the jobs, the newest first, and fetch them part by part."""
        parts = self._session.send_in_parts(
            lambda cursor: calls.list_jobs(limit=LIST_PART, cursor=cursor)
        )
        for part in parts:
            for info in part.jobs:
                yield SubmittedJob(self._session, info.job_id, info)

    def write_stream(
        self, document: str, *, recall: bool = False, **options: Unpack[WriteOptions]
    ) -> Stream[WriteEvent, WriteResult]:
        """Stream the gradient steps of a WRITE; see `write`.

        `Stream.result` returns the description of the memory; `memory` makes an object of its id.

        Args:
            document: The text.
            recall: Also send an event for each page, with the probability of every token before
                and after.
            options: See `WriteOptions`.
        """
        call = calls.stream_write(document, options, recall=recall)
        return self._session.stream(call, WRITING)

    def memory(self, memory_id: str) -> Memory[None]:
        """Return the memory of a handle; nothing is sent, and it need not exist."""
        return Memory(self._session, memory_id, None)

    def memories(self, **wanted: Unpack[FilterOptions]) -> Iterator[Memory[MemorySummary]]:
        """Iterate over the memories, the newest first, and fetch them part by part.

        Every memory that is there all the while comes exactly once, whatever is written and deleted
        meanwhile.

        Args:
            wanted: See `FilterOptions`; all memories by default.

        Raises:
            InvalidRequest: A condition is refused.
        """
        parts = self._session.send_in_parts(
            lambda cursor: calls.list_memories(wanted, limit=LIST_PART, cursor=cursor)
        )
        for part in parts:
            for summary in part.memories:
                yield Memory(self._session, summary.memory_id, summary)

    def import_memory(self, memory_id: str, content: bytes) -> Memory[MemoryInfo]:
        """Store a memory from its blob; may be repeated.

        Args:
            memory_id: Its handle, 32 lower-case hexadecimal digits.
            content: The blob, from `Memory.export`. Name, metadata and expiry are not in it:
                `Memory.patch` sets them.

        Raises:
            InvalidRequest: The bytes are not a blob of a memory of the tenant.
            Conflict: The checkpoint that wrote it is not served, or another memory has that id.
        """
        info = self._session.send(calls.put_blob(memory_id, content))
        return Memory(self._session, info.memory_id, info)

    def delete_many(
        self, memory_ids: Sequence[str] | None = None, **wanted: Unpack[FilterOptions]
    ) -> int:
        """Delete memories for good: those named, or all that pass a filter.

        Args:
            memory_ids: Ids, up to 1000; those that do not exist are passed over.
            wanted: See `FilterOptions`; used without ids, with at least one condition.

        Returns:
            The number of memories that were deleted; too low if a response was lost, since what
            its attempt deleted is not counted.

        Raises:
            InvalidRequest: There are too many ids, or no conditions.
        """
        named = None if memory_ids is None else list(memory_ids)
        parts = self._session.send_in_parts(lambda cursor: calls.delete_many(named, wanted, cursor))
        return sum(part.deleted for part in parts)

    def models(self) -> list[ModelInfo]:
        """Return the served checkpoints with their limits; the first is the default."""
        return self._session.send(calls.models())

    def limits(self) -> LimitsResponse:
        """Return the limits of requests and of the key."""
        return self._session.send(calls.limits())

    def ready(self) -> bool:
        """Return True if the service answers and can work now. Raises nothing, and tries once."""
        try:
            self.check_ready()
        except ClientError:
            return False
        return True

    def check_ready(self) -> None:
        """Check that the service can work now; try once.

        Raises:
            Unavailable: A part of it failed; the message names it.
        """
        self._session.send(calls.ready(), retry=False)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
