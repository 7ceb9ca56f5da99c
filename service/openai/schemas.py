"""The bodies of OpenAI's API, as far as READ has a use for them."""

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from service.schemas import (
    EXAMPLE_ID,
    WHOLE,
    MemoryId,
    PageId,
    Reason,
    RequestBody,
    Text,
)

MAX_MESSAGES = 1024
"Most messages in one request."
MAX_PARTS = 256
"Most parts of one message."
MAX_MODALITIES = 2
"Most modalities, of which OpenAI has two."
MAX_STOPS = 4
"Most stop sequences, as OpenAI has it."
NAMED_MEMORY = re.compile(r"(?P<checkpoint>.+):(?P<memory>[0-9a-f]{32})", re.DOTALL)
"A `model` that names a memory too."

ErrorType = Literal["invalid_request_error", "rate_limit_error", "server_error"]
Count = Annotated[Annotated[int, Field(ge=1)] | None, WHOLE]
StopSequence = Annotated[Text, Field(min_length=1)]


class TextPart(BaseModel):
    """A part of a message; parts of other types are refused."""

    type: Literal["text"]
    text: Text


class ChatMessage(BaseModel):
    """A message; fields beside these are ignored."""

    model_config = ConfigDict(
        strict=True,
        # See _check_content.
        json_schema_extra={
            "anyOf": [
                {"properties": {"role": {"not": {"const": "user"}}}},
                {"properties": {"content": {"type": ["string", "array"]}}, "required": ["content"]},
            ]
        },
    )

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: (
        Text
        | Annotated[list[TextPart], Field(fail_fast=True, min_length=1, max_length=MAX_PARTS)]
        | None
    ) = None

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        if self.role == "user" and self.content is None:
            raise ValueError("a user's message needs content")
        return self

    @property
    def text(self) -> str:
        """The text of the message, its parts on a line each."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


class ResponseFormat(BaseModel):
    """The form of the content: READ answers in text."""

    type: Literal["text"]


class StreamOptions(BaseModel):
    """Options of a stream."""

    include_usage: bool | None = None
    "End the stream with a chunk that has the usage and no choices."


class ChatCompletionRequest(RequestBody):
    """The body of `POST /v1/chat/completions`: a question to a memory.

    Fields that would change an answer in ways that READ does not support are refused, unless they
    ask for nothing (`"n": 1`). Fields that change nothing about an answer are ignored.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "prose",
                    "memory": EXAMPLE_ID,
                    "messages": [{"role": "user", "content": "Who built the garden house?"}],
                }
            ],
            # See _check_memory.
            "oneOf": [
                {"required": ["memory"], "properties": {"memory": {"type": "string"}}},
                {"properties": {"model": {"pattern": "^[^\\0]+:[0-9a-f]{32}$"}}},
            ],
        }
    )

    model: Text
    "Name of the checkpoint that wrote the memory, or `<checkpoint>:<memory id>`."
    memory: MemoryId | None = None
    "The memory's handle, unless `model` names it; a field of GradMem's own."
    messages: list[ChatMessage] = Field(
        fail_fast=True,
        min_length=1,
        max_length=MAX_MESSAGES,
        json_schema_extra={"contains": {"properties": {"role": {"const": "user"}}}},
    )
    """The last user message is the question. All others are ignored: a memory answers one question
    at a time, and its checkpoint follows no instructions."""
    min_confidence: float | None = Field(default=None, ge=0, le=1)
    """Answers with less confidence count as not found; the checkpoint's own threshold by default. A
    field of GradMem's own."""
    max_completion_tokens: Count = None
    "Most tokens of the answer; never more than the checkpoint's limit."
    max_tokens: Count = None
    "The older name of `max_completion_tokens`, which comes first."
    temperature: float | None = Field(default=None, ge=0, le=100)
    "0, the default here, takes the likeliest token; above 0, tokens are drawn."
    top_p: float | None = Field(default=None, gt=0, le=1)
    "Share of the probability mass from which tokens are drawn."
    seed: Annotated[Annotated[int, Field(ge=0, lt=2**63)] | None, WHOLE] = None
    "Seed of the draws, 0 by default: the same request has the same answer."
    stop: StopSequence | Annotated[list[StopSequence], Field(max_length=MAX_STOPS)] | None = None
    "The answer ends before the first of these that occurs in it."
    stream: bool | None = None
    """Respond with server-sent events. The answer comes in one chunk: that the memory has it is
    known only when all of it is there."""
    stream_options: StreamOptions | None = None

    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    logit_bias: Annotated[dict[str, JsonValue], Field(max_length=0)] | None = None
    tools: Annotated[list[JsonValue], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    response_format: ResponseFormat | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=MAX_MODALITIES)] | None = None

    metadata: JsonValue = None
    parallel_tool_calls: JsonValue = None
    prompt_cache_key: JsonValue = None
    reasoning_effort: JsonValue = None
    safety_identifier: JsonValue = None
    service_tier: JsonValue = None
    store: JsonValue = None
    user: JsonValue = None
    verbosity: JsonValue = None

    @model_validator(mode="after")
    def _check_memory(self) -> Self:
        if (self.memory is None) == (NAMED_MEMORY.fullmatch(self.model) is None):
            raise ValueError(
                "name the memory once: in the field `memory` (OpenAI's clients send it with"
                " `extra_body`), or as the model `<checkpoint>:<memory id>`"
            )
        return self

    @model_validator(mode="after")
    def _check_question(self) -> Self:
        if not any(message.role == "user" for message in self.messages):
            raise ValueError("the messages have no question: one of them needs the role `user`")
        return self

    @property
    def checkpoint(self) -> str:
        """Name of the checkpoint."""
        named = NAMED_MEMORY.fullmatch(self.model)
        return named["checkpoint"] if named else self.model

    @property
    def memory_id(self) -> str:
        """The memory's handle."""
        named = NAMED_MEMORY.fullmatch(self.model)
        return named["memory"] if named else self.memory or ""

    @property
    def stop_sequences(self) -> list[str]:
        """The stop sequences, in either form."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def question(self) -> str:
        """The last user message."""
        return next(message.text for message in reversed(self.messages) if message.role == "user")


class CompletionUsage(BaseModel):
    """Tokens of a request and its answer."""

    prompt_tokens: int
    "Tokens of the question, with the checkpoint's text around it."
    completion_tokens: int
    total_tokens: int


class ReadDetails(BaseModel):
    """GradMem's own remarks on an answer."""

    memory_id: MemoryId
    found: bool
    "True when the memory has an answer and is confident enough of it."
    reason: Reason | None
    """Why none was found: `not stated`, the memory has no answer; `below threshold`, the confidence
    of its answer is below `min_confidence`."""
    confidence: float
    "Probability that the result is right, be it an answer or none, 0 to 1."
    page_id: PageId
    "The page that answered."
    ignored_messages: int
    "Messages beside the question, which had no influence."


class AssistantMessage(BaseModel):
    """An answer, or a sentence that says that the memory has none."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    """The only choice."""

    index: Literal[0] = 0
    message: AssistantMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class ChatCompletion(BaseModel):
    """The response to a question."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    "Seconds since 1970."
    model: str
    "The model as the request names it."
    system_fingerprint: str
    "Fingerprint of the checkpoint."
    choices: list[Choice]
    usage: CompletionUsage
    gradmem: ReadDetails


class Delta(BaseModel):
    """Additions to the message; nothing in the last chunk of a choice."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """The only choice of a chunk."""

    index: Literal[0] = 0
    delta: Delta
    finish_reason: Literal["stop", "length"] | None = None


class ChatCompletionChunk(BaseModel):
    """An event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: CompletionUsage | None = None
    gradmem: ReadDetails | None = None
    "In the chunk with the `finish_reason`."


class ModelObject(BaseModel):
    """A served checkpoint."""

    id: str
    "Its name."
    object: Literal["model"] = "model"
    created: int = 0
    "OpenAI's clients require it; checkpoints do not know their age."
    owned_by: str = "gradmem"


class ModelList(BaseModel):
    """The served checkpoints; the first is the default of the other routes."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class ErrorDetails(BaseModel):
    """A problem in OpenAI's form."""

    message: str
    "Cause of the problem, and what to do about it."
    type: ErrorType
    param: str | None
    "The first invalid field."
    code: str | None
    "Stable name of the problem type, as that of the other routes, with underscores."


class ErrorResponse(BaseModel):
    """The body of every response under `/v1` that is not a success."""

    error: ErrorDetails
