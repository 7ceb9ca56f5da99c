"""`Client` and `AsyncClient`: the same methods, blocking or to be awaited."""

import os
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Self, TypedDict, TypeVar, Unpack

import httpx

from gradmem_core.config import EmbedsForm
from service.client import calls
from service.client.calls import Call, FilterOptions, PatchOptions, SamplingOptions, WriteOptions
from service.client.errors import ClientError, InvalidKey, translate_errors
from service.schemas import AnswerInfo, MemoryInfo, MemorySummary, ModelInfo, WriteResult

DEFAULT_URL = "http://127.0.0.1:8080"
TIMEOUT_SECONDS = 630.0
CONNECT_SECONDS = 10.0
LIST_PART = 100
"Memories fetched at a time."
LOOPBACK = ("127.0.0.1", "::1", "localhost")

T = TypeVar("T")


class _HttpOptions(TypedDict):
    base_url: httpx.URL
    headers: dict[str, str]
    timeout: httpx.Timeout
    trust_env: bool


def _find_url(base_url: str | None) -> str:
    """Return a base URL: the one given, or GRADMEM_URL of the environment, or DEFAULT_URL."""
    return base_url or os.environ.get("GRADMEM_URL") or DEFAULT_URL


def _find_key(key: str | None) -> dict[str, str]:
    """Return the header with a key, or with GRADMEM_KEY of the environment; empty without.

    Raises:
        InvalidKey: It is no text that a header can hold.
    """
    if key is None:
        key = os.environ.get("GRADMEM_KEY")
    if not key:
        return {}
    if not re.fullmatch(r"[!-~]+", key):
        raise InvalidKey("the key has spaces or other characters that no key has; copy it again")
    return {"Authorization": f"Bearer {key}"}


def _http_options(base_url: str, key: str | None, timeout_seconds: float | None) -> _HttpOptions:
    with translate_errors(base_url):
        url = httpx.URL(base_url)
    return _HttpOptions(
        base_url=url,
        headers=_find_key(key),
        timeout=httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS),
        trust_env=url.host not in LOOPBACK,  # no proxy to reach this machine
    )


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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.base_url = _find_url(base_url)
        self._http = httpx.Client(
            **_http_options(self.base_url, key, timeout_seconds), transport=transport
        )

    def write(self, document: str, **options: Unpack[WriteOptions]) -> WriteResult:
        """Compress a document into a memory; the service forgets the text.

        Args:
            document: The text.
            options: See `WriteOptions`.

        Raises:
            InvalidRequest: The document, the steps or another argument is refused.
            TypeError: An argument is of a type that JSON does not have, as bytes.
            NotFound: No such model is served, or no memory to append to has that id.
            Conflict: The memory to append to was written by another checkpoint.
        """
        return self._send(calls.write(document, options))

    def read(self, memory_id: str, query: str, **sampling: Unpack[SamplingOptions]) -> AnswerInfo:
        """Answer a single query; see `read_many` for the arguments."""
        answers = self.read_many(memory_id, [query], **sampling)
        return answers[0]

    def read_many(
        self, memory_id: str, queries: list[str], **sampling: Unpack[SamplingOptions]
    ) -> list[AnswerInfo]:
        """Answer queries from a memory alone, in their order and in one request.

        Args:
            memory_id: The memory's handle.
            queries: 1 to 256 queries.
            sampling: See `SamplingOptions`.

        Raises:
            InvalidRequest: A query or another argument is refused.
            TypeError: An argument is of a type that JSON does not have, as bytes.
            NotFound: No memory has that id, or it has expired.
            Conflict: The memory was written by another checkpoint.
        """
        return self._send(calls.read(memory_id, queries, sampling))

    def show(self, memory_id: str) -> MemoryInfo:
        """Return the description of a memory.

        Raises:
            NotFound: No memory has that id, or it has expired.
        """
        return self._send(calls.show(memory_id))

    def memories(self, **wanted: Unpack[FilterOptions]) -> Iterator[MemorySummary]:
        """Iterate over the memories, the newest first, and fetch them part by part.

        Every memory that is there all the while comes exactly once, whatever is written and deleted
        meanwhile.

        Args:
            wanted: See `FilterOptions`; all memories by default.

        Raises:
            InvalidRequest: A condition is refused.
        """
        cursor = None
        while True:
            part = self._send(calls.list_memories(wanted, limit=LIST_PART, cursor=cursor))
            yield from part.memories
            cursor = part.next_cursor
            if cursor is None:
                return

    def prompt_embeds(
        self,
        memory_id: str,
        page_id: str | None = None,
        *,
        query: str | None = None,
        form: EmbedsForm = "safetensors",
    ) -> bytes:
        """Export a memory for other engines, as vectors `(m, d)`.

        Args:
            memory_id: The memory's handle.
            page_id: The page, where it has several.
            query: A query, whose token embeddings come after the memory: `(m + tokens, d)`.
            form: A safetensors file with the tensor `prompt_embeds` or, for vLLM's server, JSON:
                the field `prompt_embeds` of a request to `/v1/completions`, or a part of a chat
                message's content.

        Raises:
            InvalidRequest: The memory has several pages and none is named, or the query is refused.
            NotFound: No memory has that id, or no page of it.
            Conflict: The memory was written by another checkpoint.
        """
        return self._send(calls.prompt_embeds(memory_id, page_id, query, form))

    def blob(self, memory_id: str) -> bytes:
        """Return the blob of a memory, which `put_blob` takes; it is as secret as the document.

        Raises:
            NotFound: No memory has that id, or it has expired.
        """
        return self._send(calls.blob(memory_id))

    def put_blob(self, memory_id: str, content: bytes) -> MemoryInfo:
        """Store the blob of a memory under an id; may be repeated.

        Args:
            memory_id: The memory's handle, 32 lower-case hexadecimal digits.
            content: The blob. Name, metadata and expiry are not in it: `patch` sets them.

        Raises:
            InvalidRequest: The bytes are not a blob of a memory of the tenant.
            Conflict: The checkpoint that wrote it is not served, or another memory has that id.
        """
        return self._send(calls.put_blob(memory_id, content))

    def delete(self, memory_id: str) -> None:
        """Delete a memory for good.

        Raises:
            NotFound: No memory has that id, or it has expired.
        """
        return self._send(calls.delete(memory_id))

    def patch(self, memory_id: str, **changes: Unpack[PatchOptions]) -> MemoryInfo:
        """Change name, metadata and expiry of a memory.

        Args:
            memory_id: The memory's handle.
            changes: See `PatchOptions`.

        Raises:
            InvalidRequest: A change is refused.
            NotFound: No memory has that id, or it has expired.
            Conflict: Others kept changing the memory.
        """
        return self._send(calls.patch(memory_id, changes))

    def delete_many(
        self, memory_ids: Sequence[str] | None = None, **wanted: Unpack[FilterOptions]
    ) -> int:
        """Delete memories for good: those named, or all that pass a filter.

        Args:
            memory_ids: Ids, up to 1000; those that do not exist are passed over.
            wanted: See `FilterOptions`; used without ids, with at least one condition.

        Returns:
            The number of memories that were deleted.

        Raises:
            InvalidRequest: There are too many ids, or no conditions.
        """
        named = None if memory_ids is None else list(memory_ids)
        deleted, cursor = 0, None
        while True:
            part = self._send(calls.delete_many(named, wanted, cursor))
            deleted, cursor = deleted + part.deleted, part.next_cursor
            if cursor is None:
                return deleted

    def delete_page(self, memory_id: str, page_id: str) -> None:
        """Delete a page of a memory for good.

        Raises:
            InvalidRequest: It is the memory's only page.
            NotFound: No memory has that id, or no page of it.
            Conflict: Others kept changing the memory.
        """
        return self._send(calls.delete_page(memory_id, page_id))

    def models(self) -> list[ModelInfo]:
        """Return the served checkpoints with their limits; the first is the default."""
        return self._send(calls.models())

    def ready(self) -> bool:
        """Return True if the service answers and can work now. Raises nothing."""
        try:
            self._send(calls.ready())
        except ClientError:
            return False
        return True

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, call: Call[T]) -> T:
        with translate_errors(self.base_url):
            response = self._http.send(call.build_request(self._http))
        return call.parse_response(response)


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
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.base_url = _find_url(base_url)
        self._http = httpx.AsyncClient(
            **_http_options(self.base_url, key, timeout_seconds), transport=transport
        )

    async def write(self, document: str, **options: Unpack[WriteOptions]) -> WriteResult:
        """See `Client.write`."""
        return await self._send(calls.write(document, options))

    async def read(
        self, memory_id: str, query: str, **sampling: Unpack[SamplingOptions]
    ) -> AnswerInfo:
        """See `Client.read`."""
        answers = await self.read_many(memory_id, [query], **sampling)
        return answers[0]

    async def read_many(
        self, memory_id: str, queries: list[str], **sampling: Unpack[SamplingOptions]
    ) -> list[AnswerInfo]:
        """See `Client.read_many`."""
        return await self._send(calls.read(memory_id, queries, sampling))

    async def show(self, memory_id: str) -> MemoryInfo:
        """See `Client.show`."""
        return await self._send(calls.show(memory_id))

    async def memories(self, **wanted: Unpack[FilterOptions]) -> AsyncIterator[MemorySummary]:
        """See `Client.memories`; use it with `async for`."""
        cursor = None
        while True:
            part = await self._send(calls.list_memories(wanted, limit=LIST_PART, cursor=cursor))
            for memory in part.memories:
                yield memory
            cursor = part.next_cursor
            if cursor is None:
                return

    async def prompt_embeds(
        self,
        memory_id: str,
        page_id: str | None = None,
        *,
        query: str | None = None,
        form: EmbedsForm = "safetensors",
    ) -> bytes:
        """See `Client.prompt_embeds`."""
        return await self._send(calls.prompt_embeds(memory_id, page_id, query, form))

    async def blob(self, memory_id: str) -> bytes:
        """See `Client.blob`."""
        return await self._send(calls.blob(memory_id))

    async def put_blob(self, memory_id: str, content: bytes) -> MemoryInfo:
        """See `Client.put_blob`."""
        return await self._send(calls.put_blob(memory_id, content))

    async def delete(self, memory_id: str) -> None:
        """See `Client.delete`."""
        return await self._send(calls.delete(memory_id))

    async def patch(self, memory_id: str, **changes: Unpack[PatchOptions]) -> MemoryInfo:
        """See `Client.patch`."""
        return await self._send(calls.patch(memory_id, changes))

    async def delete_many(
        self, memory_ids: Sequence[str] | None = None, **wanted: Unpack[FilterOptions]
    ) -> int:
        """See `Client.delete_many`."""
        named = None if memory_ids is None else list(memory_ids)
        deleted, cursor = 0, None
        while True:
            part = await self._send(calls.delete_many(named, wanted, cursor))
            deleted, cursor = deleted + part.deleted, part.next_cursor
            if cursor is None:
                return deleted

    async def delete_page(self, memory_id: str, page_id: str) -> None:
        """See `Client.delete_page`."""
        return await self._send(calls.delete_page(memory_id, page_id))

    async def models(self) -> list[ModelInfo]:
        """See `Client.models`."""
        return await self._send(calls.models())

    async def ready(self) -> bool:
        """See `Client.ready`."""
        try:
            await self._send(calls.ready())
        except ClientError:
            return False
        return True

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _send(self, call: Call[T]) -> T:
        with translate_errors(self.base_url):
            response = await self._http.send(call.build_request(self._http))
        return call.parse_response(response)
