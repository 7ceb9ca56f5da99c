"""`Memory` and `AsyncMemory`: a memory of the service, to be asked, changed and deleted."""

from collections.abc import Mapping
from typing import Generic, TypeAlias, TypeVar, Unpack

from gradmem_core.config import EmbedsForm
from service.client import calls
from service.client.errors import ProblemError, error_of_problem
from service.client.options import AppendOptions, PageOptions, PatchOptions, SamplingOptions
from service.client.sessions import AsyncSession, Session
from service.client.streams import AsyncStream, Stream
from service.jobs.schemas import DocumentResult, WrittenDocument
from service.schemas import (
    AnswerInfo,
    MemoryInfo,
    RecallEvent,
    StepEvent,
    TokenEvent,
    WriteResult,
)

InfoT = TypeVar("InfoT", covariant=True)

WriteEvent: TypeAlias = StepEvent | RecallEvent

WRITING: Mapping[str, type[WriteEvent]] = {"step": StepEvent, "recall": RecallEvent}
TOKENS = {"token": TokenEvent}


class Memory(Generic[InfoT]):
    """A memory of the service. `Client.write`, `Client.memories` and `Client.memory` make them.

    Every method may raise NotFound: no memory has that id, it has expired, or it has no such page.

    Attributes:
        memory_id: Its handle, by which `Client.memory` finds it again.
        info: The service's description of it when this object was made; None where the handle alone
            was given. `describe` fetches the present one.
    """

    def __init__(self, session: Session, memory_id: str, info: InfoT) -> None:
        self._session = session
        self.memory_id = memory_id
        self.info = info

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.memory_id}>"

    def describe(self) -> MemoryInfo:
        """Return the present description."""
        return self._session.send(calls.show(self.memory_id))

    def ask(self, query: str, **sampling: Unpack[SamplingOptions]) -> AnswerInfo:
        """Answer a query from the memory alone; see `ask_many` for the arguments."""
        return self.ask_many([query], **sampling)[0]

    def ask_many(self, queries: list[str], **sampling: Unpack[SamplingOptions]) -> list[AnswerInfo]:
        """Answer queries from the memory alone, in their order and in one request.

        An answer is true where one was found: `if answer: print(answer.answer)`.

        Args:
            queries: 1 to 256 queries.
            sampling: See `SamplingOptions`.

        Raises:
            InvalidRequest: A query or another argument is refused.
            TypeError: An argument is of a type that JSON does not have, as bytes.
            Conflict: The memory was written by another checkpoint.
        """
        return self._session.send(calls.read(self.memory_id, queries, sampling))

    def ask_stream(
        self, *queries: str, **sampling: Unpack[SamplingOptions]
    ) -> Stream[TokenEvent, list[AnswerInfo]]:
        """Stream the answers to queries while they are generated; see `ask_many`.

        The text of an event is preliminary: whether the memory has an answer is known at its end.
        `Stream.result` returns the answers.
        """
        call = calls.stream_read(self.memory_id, list(queries), sampling)
        return self._session.stream(call, TOKENS)

    def append(self, document: str, **options: Unpack[AppendOptions]) -> WriteResult:
        """Add a document to the memory, which keeps its name, metadata and expiry.

        Raises:
            InvalidRequest: The document or an option is refused, or there are too many pages.
            Conflict: The memory was written by another checkpoint.
        """
        return self._session.send(calls.write(document, options, append_to=self.memory_id))

    def append_stream(
        self, document: str, *, recall: bool = False, **options: Unpack[AppendOptions]
    ) -> Stream[WriteEvent, WriteResult]:
        """Stream the gradient steps of `append`; see `Client.write_stream`."""
        call = calls.stream_write(document, options, append_to=self.memory_id, recall=recall)
        return self._session.stream(call, WRITING)

    def replace_page(
        self, page_id: str, document: str, **options: Unpack[PageOptions]
    ) -> WriteResult:
        """Write a page again, from a new text; its id stays.

        Raises:
            InvalidRequest: The document or an option is refused.
            Conflict: The memory was written by another checkpoint, or others kept changing it.
        """
        return self._session.send(calls.replace_page(self.memory_id, page_id, document, options))

    def delete_page(self, page_id: str) -> None:
        """Delete a page for good.

        Raises:
            InvalidRequest: It is the memory's only page.
            Conflict: Others kept changing the memory.
        """
        return self._session.send(calls.delete_page(self.memory_id, page_id))

    def patch(self, **changes: Unpack[PatchOptions]) -> MemoryInfo:
        """Change name, metadata and expiry; see `PatchOptions`.

        Raises:
            InvalidRequest: A change is refused.
            Conflict: Others kept changing the memory.
        """
        return self._session.send(calls.patch(self.memory_id, changes))

    def export(self) -> bytes:
        """Return the blob, which `Client.import_memory` takes; it is as secret as the document."""
        return self._session.send(calls.blob(self.memory_id))

    def prompt_embeds(
        self,
        page_id: str | None = None,
        *,
        query: str | None = None,
        form: EmbedsForm = "safetensors",
    ) -> bytes:
        """Export the memory for other engines, as vectors `(m, d)`.

        Args:
            page_id: The page, where it has several.
            query: A query, whose token embeddings come after the memory: `(m + tokens, d)`.
            form: A safetensors file with the tensor `prompt_embeds` or, for vLLM's server, JSON:
                the field `prompt_embeds` of a request to `/v1/completions`, or a part of a chat
                message's content.

        Raises:
            InvalidRequest: The memory has several pages and none is named, or the query is refused.
            Conflict: The memory was written by another checkpoint.
        """
        return self._session.send(calls.prompt_embeds(self.memory_id, page_id, query, form))

    def delete(self) -> None:
        """Delete the memory for good."""
        return self._session.send(calls.delete(self.memory_id))


def open_result(session: Session, result: DocumentResult) -> Memory[WriteResult] | ProblemError:
    """Return the memory of a document of many, or the error that it ended with."""
    if isinstance(result, WrittenDocument):
        return Memory(session, result.memory.memory_id, result.memory)
    return error_of_problem(result.problem, result.problem.status)


class AsyncMemory(Generic[InfoT]):
    """`Memory` for asyncio: the same arguments, results and errors."""

    def __init__(self, session: AsyncSession, memory_id: str, info: InfoT) -> None:
        self._session = session
        self.memory_id = memory_id
        self.info = info

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.memory_id}>"

    async def describe(self) -> MemoryInfo:
        """See `Memory.describe`."""
        return await self._session.send(calls.show(self.memory_id))

    async def ask(self, query: str, **sampling: Unpack[SamplingOptions]) -> AnswerInfo:
        """See `Memory.ask`."""
        return (await self.ask_many([query], **sampling))[0]

    async def ask_many(
        self, queries: list[str], **sampling: Unpack[SamplingOptions]
    ) -> list[AnswerInfo]:
        """See `Memory.ask_many`."""
        return await self._session.send(calls.read(self.memory_id, queries, sampling))

    def ask_stream(
        self, *queries: str, **sampling: Unpack[SamplingOptions]
    ) -> AsyncStream[TokenEvent, list[AnswerInfo]]:
        """See `Memory.ask_stream`."""
        call = calls.stream_read(self.memory_id, list(queries), sampling)
        return self._session.stream(call, TOKENS)

    async def append(self, document: str, **options: Unpack[AppendOptions]) -> WriteResult:
        """See `Memory.append`."""
        return await self._session.send(calls.write(document, options, append_to=self.memory_id))

    def append_stream(
        self, document: str, *, recall: bool = False, **options: Unpack[AppendOptions]
    ) -> AsyncStream[WriteEvent, WriteResult]:
        """See `Memory.append_stream`."""
        call = calls.stream_write(document, options, append_to=self.memory_id, recall=recall)
        return self._session.stream(call, WRITING)

    async def replace_page(
        self, page_id: str, document: str, **options: Unpack[PageOptions]
    ) -> WriteResult:
        """See `Memory.replace_page`."""
        call = calls.replace_page(self.memory_id, page_id, document, options)
        return await self._session.send(call)

    async def delete_page(self, page_id: str) -> None:
        """See `Memory.delete_page`."""
        return await self._session.send(calls.delete_page(self.memory_id, page_id))

    async def patch(self, **changes: Unpack[PatchOptions]) -> MemoryInfo:
        """See `Memory.patch`."""
        return await self._session.send(calls.patch(self.memory_id, changes))

    async def export(self) -> bytes:
        """See `Memory.export`."""
        return await self._session.send(calls.blob(self.memory_id))

    async def prompt_embeds(
        self,
        page_id: str | None = None,
        *,
        query: str | None = None,
        form: EmbedsForm = "safetensors",
    ) -> bytes:
        """See `Memory.prompt_embeds`."""
        call = calls.prompt_embeds(self.memory_id, page_id, query, form)
        return await self._session.send(call)

    async def delete(self) -> None:
        """See `Memory.delete`."""
        return await self._session.send(calls.delete(self.memory_id))


def open_async_result(
    session: AsyncSession, result: DocumentResult
) -> AsyncMemory[WriteResult] | ProblemError:
    """See `open_result`."""
    if isinstance(result, WrittenDocument):
        return AsyncMemory(session, result.memory.memory_id, result.memory)
    return error_of_problem(result.problem, result.problem.status)
