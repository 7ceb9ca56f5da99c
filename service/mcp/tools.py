"""The tools that agents have, each a call of the service.

Their docstrings, and those of the fields, are what an agent knows about them.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from service.client import AsyncClient, AsyncStream, ClientError
from service.client.memories import WriteEvent
from service.schemas import (
    MAX_LIST,
    MAX_QUERIES,
    AnswerInfo,
    MemorySummary,
    Reason,
    StepEvent,
    WriteResult,
)

MemoryHandle = Annotated[str, Field(description="Handle of the memory, from write_memory.")]
Share = Annotated[float, AfterValidator(lambda share: round(share, 2))]
"A number from 0 to 1: further digits would only fill an agent's context."
Metadata = Annotated[
    dict[str, str] | None,
    Field(description='Names and values of your own, such as {"task": "billing"}.'),
]


class Output(BaseModel):
    """The result of a tool; the docstrings of its fields are in its JSON schema."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class WrittenMemory(Output):
    """A memory that was just written."""

    memory_id: str
    "Handle of the memory: keep it, ask_memory needs it."
    model: str
    "Checkpoint that wrote it."
    tokens: int
    "Tokens of the text."
    pages: int
    "Pages that the text was split into."
    read_back: Share | None
    """Share of the words asked for that came back right after writing, 0 to 1; null where the
    checkpoint cannot tell. Keep a text that comes back poorly."""
    weak_lines: list[int]
    "Lines of the text, from 1, of which less than half came back: note them elsewhere."
    skipped_lines: list[int]
    "Lines that are not in the memory: the checkpoint takes `key: value` lines, and these are none."
    duplicate_keys: list[str]
    "Keys that the text has more than once; only their last values are in the memory."
    expires_at: datetime | None
    "Time at which the memory deletes itself; null for never."

    @classmethod
    def of(cls, memory: WriteResult) -> "WrittenMemory":
        """Return what an agent needs to know about a memory."""
        return cls(
            memory_id=memory.memory_id,
            model=memory.model,
            tokens=memory.tokens,
            pages=len(memory.pages),
            read_back=memory.read_back,
            weak_lines=memory.weak_lines,
            skipped_lines=memory.skipped_lines,
            duplicate_keys=memory.duplicate_keys,
            expires_at=memory.expires_at,
        )


class MemoryAnswer(Output):
    """The answer to a question."""

    question: str
    found: bool
    "False: the memory does not know. Do not guess the answer."
    answer: str | None
    "The answer; null where the memory does not know."
    reason: Reason | None
    """Why it does not know: `not stated`, the text does not say; `below threshold`, it has an
    answer that is probably wrong."""
    confidence: Share
    "Probability that this result is right, 0 to 1."

    @classmethod
    def of(cls, answer: AnswerInfo) -> "MemoryAnswer":
        """Return what an agent needs to know about an answer."""
        return cls(
            question=answer.query,
            found=answer.found,
            answer=answer.answer,
            reason=answer.reason,
            confidence=answer.confidence,
        )


class MemoryAnswers(Output):
    """The answers to all questions, in their order."""

    answers: list[MemoryAnswer]


class ListedMemories(Output):
    """Memories, the newest first."""

    memories: list[MemorySummary]
    more: bool
    "True if there are more: raise `limit`, or filter."


class DeletedMemory(Output):
    """The handle of a memory that is no more."""

    memory_id: str


class MemoryTools:
    """The tools of one service.

    Args:
        url: Base URL of the service; by default GRADMEM_URL, or port 8080 of this machine.
    """

    def __init__(self, url: str | None = None) -> None:
        self._url = url

    async def write_memory(
        self,
        context: Context[Any, Any],
        text: Annotated[str, Field(min_length=1, description="The text to remember.")],
        name: Annotated[
            str | None, Field(description="Name to find the memory by; need not be unique.")
        ] = None,
        metadata: Metadata = None,
        expires_in_seconds: Annotated[
            int | None, Field(ge=1, description="Time until the memory deletes itself.")
        ] = None,
        model: Annotated[
            str | None,
            Field(description="Checkpoint that writes; the service's default is meant for prose."),
        ] = None,
        append_to: Annotated[
            str | None,
            Field(
                description="Handle of a memory to add the text to; it keeps its name, metadata"
                " and expiry."
            ),
        ] = None,
    ) -> WrittenMemory:
        """Compress a text into a memory outside your context, and get its handle.

        Use it when a text is worth asking about later but not worth its room in your context: a
        finished phase of work, a long tool result, notes. Afterwards go on with the handle alone.

        The text itself is forgotten: a memory answers short questions about single facts, and
        gives no quotations or summaries. Plain sentences that each state a fact are remembered
        best; digits, code and tables badly. Keep what must be exact.

        Up to a few pages of prose: every 64 tokens take seconds, and 64 such pages are the usual
        limit.
        """
        if append_to is not None and (name or metadata or expires_in_seconds or model):
            raise ToolError(
                "append_to excludes name, metadata, expires_in_seconds and model: the memory keeps"
                " its own"
            )
        async with self._connect(context) as client:
            if append_to is not None:
                stream = client.memory(append_to).append_stream(text)
            else:
                stream = client.write_stream(
                    text, name=name, metadata=metadata, ttl_seconds=expires_in_seconds, model=model
                )
            return WrittenMemory.of(await _report(stream, context))

    async def ask_memory(
        self,
        context: Context[Any, Any],
        memory_id: MemoryHandle,
        questions: Annotated[
            list[str],
            Field(
                min_length=1,
                max_length=MAX_QUERIES,
                description="One or many questions, each about a single fact and complete in"
                " itself: the memory does not know the others.",
            ),
        ],
        min_confidence: Annotated[
            float | None,
            Field(
                ge=0,
                le=1,
                description="Answers with less confidence count as not found; the checkpoint's own"
                " threshold by default.",
            ),
        ] = None,
    ) -> MemoryAnswers:
        """Ask a memory questions; it answers from what it kept of its text.

        `found: false` means that the memory does not know: say so, or look elsewhere, but do not
        guess. An answer may be wrong; its `confidence` is the probability that it is right. Ask
        several questions in one call.
        """
        async with self._connect(context) as client:
            memory = client.memory(memory_id)
            answers = await memory.ask_many(questions, min_confidence=min_confidence)
        return MemoryAnswers(answers=[MemoryAnswer.of(answer) for answer in answers])

    async def list_memories(
        self,
        context: Context[Any, Any],
        name: Annotated[str | None, Field(description="Only memories of this name.")] = None,
        metadata: Annotated[
            dict[str, str] | None, Field(description="Only memories with these entries.")
        ] = None,
        limit: Annotated[int, Field(ge=1, le=MAX_LIST, description="Most memories to list.")] = 20,
    ) -> ListedMemories:
        """List the memories that you may ask, the newest first, to find a handle again.

        The list has names and metadata, not what the memories know: ask_memory tells that.
        """
        found: list[MemorySummary] = []
        async with self._connect(context) as client:
            async for memory in client.memories(name=name, metadata=metadata):
                found.append(memory.info)
                if len(found) > limit:
                    break
        return ListedMemories(memories=found[:limit], more=len(found) > limit)

    async def delete_memory(
        self, context: Context[Any, Any], memory_id: MemoryHandle
    ) -> DeletedMemory:
        """Delete a memory for good. Its text is long forgotten: nothing brings it back."""
        async with self._connect(context) as client:
            await client.memory(memory_id).delete()
        return DeletedMemory(memory_id=memory_id)

    @asynccontextmanager
    async def _connect(self, context: Context[Any, Any]) -> AsyncIterator[AsyncClient]:
        """Yield a client with the caller's key; turn its errors into errors of the tool.

        Every call has a client of its own: callers have different keys.
        """
        try:
            async with AsyncClient(self._url, key=_key_of(context)) as client:
                yield client
        except ClientError as error:
            raise ToolError(str(error)) from error


async def _report(
    stream: AsyncStream[WriteEvent, WriteResult], context: Context[Any, Any]
) -> WriteResult:
    """Return the result of a WRITE, having reported each gradient step as progress."""
    steps = 0
    async with stream:
        async for event in stream:
            if isinstance(event, StepEvent):
                steps += 1
                at = f"page {event.page + 1}, step {event.step}"
                await context.report_progress(steps, message=at)
        return await stream.result()


def _key_of(context: Context[Any, Any]) -> str | None:
    """Return the key of a caller.

    Over HTTP it is the one that the request brings, empty for none: the environment's key is that
    of whoever started this server. Over standard input they are the same (None).
    """
    if context.headers is None:
        return None
    scheme, _, key = context.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""
