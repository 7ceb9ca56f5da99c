"""The bodies of the HTTP API: requests, results, events and problems."""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    model_validator,
)

from gradmem_core.config import BlobDtype, EmbedsForm

MemoryId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Text = Annotated[str, Field(max_length=2**26)]
"""A text. Bodies have a lower limit: the constraint makes pydantic refuse lone surrogates."""
PageId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
MAX_QUERIES = 256
"Most queries in one request."
MAX_METADATA = 32
"Most metadata entries of one memory."
MAX_METADATA_NAME = 128
"Longest name of an entry, in characters."
MAX_METADATA_VALUE = 1024
"Longest value of an entry, in characters."
MAX_DOCUMENTS = 256
"Most documents of a batch."
MAX_LIST = 1000
"Most memories in a part of a list, or in one deletion."
MAX_NAMED_FIELDS = 20
"Most invalid fields that a response names."
Timeout = Annotated[float, Field(gt=0, le=86400)]
YEAR_SECONDS = 365 * 24 * 3600

EXAMPLE_ID = "5f1c0a7e9b3d4c2e8a6f7b0d1e2c3a4b"
EXAMPLE_FINGERPRINT = "9f" * 32
EXAMPLE_PAGE_ID = "c0ffee0123456789"
EXAMPLE_PAGE: dict[str, JsonValue] = {
    "page_id": EXAMPLE_PAGE_ID,
    "tokens": 34,
    "records": 2,
    "write_steps": 5,
    "losses": [4.1, 1.2, 0.5, 0.3, 0.2, 0.2],
    "write_accuracy": 0.93,
    "first_line": 1,
    "last_line": 2,
    "read_back": {"words": 4, "right": 4, "weak_lines": []},
    "created_at": "2026-11-23T12:00:00Z",
}


class Described(BaseModel):
    """A body whose fields are described in the OpenAPI document by their docstrings."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class RequestBody(Described):
    """A request body: unknown fields are refused, types are not coerced."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_most_unknown(cls, body: object) -> object:
        """Keep only the first unknown fields: reporting 100,000 of them would take seconds."""
        if not isinstance(body, dict):
            return body
        unknown = [name for name in body if name not in cls.model_fields]
        return {
            name: body[name]
            for name in (*cls.model_fields, *unknown[:MAX_NAMED_FIELDS])
            if name in body
        }


def _refuse_many_entries(metadata: object) -> object:
    """Refuse too many entries before each of them is validated."""
    if isinstance(metadata, dict) and len(metadata) > MAX_METADATA:
        raise ValueError(f"at most {MAX_METADATA} entries, not {len(metadata)}")
    return metadata


def _take_whole_number(value: object) -> object:
    """Take 1.0 for the integer that it is in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_take_whole_number)

MetadataKey = Annotated[str, Field(max_length=MAX_METADATA_NAME)]
MetadataValue = Annotated[str, Field(max_length=MAX_METADATA_VALUE)]
Metadata = Annotated[
    dict[MetadataKey, MetadataValue],
    BeforeValidator(_refuse_many_entries),
    Field(max_length=MAX_METADATA),
]
Name = Annotated[str, Field(min_length=1, max_length=256)]
TtlSeconds = Annotated[int, Field(ge=1, le=10 * YEAR_SECONDS)]


class DocumentRequest(RequestBody):
    """A document to compress."""

    document: Text = Field(min_length=1)
    "The text to compress; it is forgotten once the memory is written."
    steps: Annotated[Annotated[int, Field(ge=1)] | Literal["auto"] | None, WHOLE] = None
    """Gradient steps (K), or `auto` for as many as reduce the loss; the checkpoint's own number by
    default."""
    timeout: Timeout | None = None
    "Seconds after which the service answers 504; it has a limit of its own."
    verify: bool = True
    """Read the memory back, and write pages that come back poorly again, in halves; for checkpoints
    that can continue a text."""
    recall: bool = False
    """Send an event `recall` for each page, with the probability of each of its tokens before and
    after WRITE; for requests with `Accept: text/event-stream`."""


class PageRequest(DocumentRequest):
    """The body of `PUT /memories/{id}/pages/{page}`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"document": "Alice: +49 30 5550199\nDoor code: 4711#"}]}
    )


class WriteRequest(DocumentRequest):
    """The body of `POST /write`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"document": "Alice: +49 30 5550123\nDoor code: 4711#", "ttl_seconds": 3600}
            ],
            # See _check_append.
            "anyOf": [
                {"properties": {"append_to": {"type": "null"}}},
                {
                    "properties": {
                        "ttl_seconds": {"type": "null"},
                        "name": {"type": "null"},
                        "metadata": {"maxProperties": 0},
                    }
                },
            ],
        }
    )

    model: Text | None = None
    "Name of the checkpoint that writes, from `GET /models`; the first one by default."
    ttl_seconds: Annotated[TtlSeconds | None, WHOLE] = None
    "Seconds until the memory is deleted; never by default."
    name: Name | None = None
    "Name for people and for lists; several memories may have the same."
    metadata: Metadata = Field(default_factory=dict)
    "Names and values of your own, returned with the memory."
    append_to: MemoryId | None = None
    """Add the document to this memory, which keeps its name, its metadata and its expiry; for
    checkpoints whose memories have pages."""

    @model_validator(mode="after")
    def _check_append(self) -> "WriteRequest":
        if self.append_to is not None and (self.ttl_seconds or self.name or self.metadata):
            raise ValueError(
                "append_to excludes ttl_seconds, name and metadata: the memory keeps its own"
            )
        return self


class ReadBackInfo(Described):
    """The words of a page that READ gave back right after WRITE."""

    words: int
    "Words asked for: continuations of sentences, and the values of `key: value` lines."
    right: int
    "Words that came back in their places."
    weak_lines: list[int]
    "Lines of the document, from 1, of which less than half came back."


class PageDescription(Described):
    """A page of a memory: the vectors of one part of a document."""

    page_id: PageId
    tokens: int
    "Tokens written."
    records: int | None
    "Records among them; null where documents are texts."
    write_steps: int
    "Gradient steps taken."
    losses: list[float]
    "Reconstruction loss before each step and after the last, nats per token."
    write_accuracy: float
    """Share of the page's tokens that WRITE predicts from the memory and the tokens before them.
    READ may recall less: see `read_back`."""
    first_line: int | None
    "First line of the document that is on the page, from 1; null for lists of records."
    last_line: int | None
    "Last line of the document that is on the page."
    read_back: ReadBackInfo | None
    "The words that READ gave back; null without `verify`, or where the checkpoint cannot."
    created_at: datetime


class MemoryInfo(Described):
    """A memory without its vectors: the response to `GET /memories/{id}`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "memory_id": EXAMPLE_ID,
                    "name": None,
                    "model": "records",
                    "fingerprint": EXAMPLE_FINGERPRINT,
                    "tokens": 34,
                    "records": 2,
                    "write_steps": 5,
                    "losses": [4.1, 1.2, 0.5, 0.3, 0.2, 0.2],
                    "write_accuracy": 0.93,
                    "read_back": 1.0,
                    "pages": [EXAMPLE_PAGE],
                    "bytes": 9000,
                    "dtype": "float32",
                    "created_at": "2026-11-23T12:00:00Z",
                    "expires_at": "2026-11-23T13:00:00Z",
                    "metadata": {},
                }
            ]
        }
    )

    memory_id: MemoryId
    name: str | None
    "Name that it was given."
    model: str
    "Name of the checkpoint that wrote it."
    fingerprint: str
    "Fingerprint of that checkpoint."
    tokens: int
    "Tokens of all pages."
    records: int | None
    "Records of all pages; null where documents are texts."
    write_steps: int
    "Gradient steps taken on the page that took the most."
    losses: list[float]
    """Reconstruction loss before each step and after the last, nats per token; the mean over the
    tokens of all pages. Pages that took fewer steps count with their last loss."""
    write_accuracy: float
    "Mean of the pages, weighted by their tokens."
    read_back: float | None
    """Share of the words asked for that READ gave back right after WRITE, 0 to 1; null without
    `verify`, or where the checkpoint cannot."""
    pages: list[PageDescription]
    """Pages in the order in which they were written; one where the document was not split. A page
    that was replaced keeps its place."""
    bytes: int
    "Size of the stored blob."
    dtype: BlobDtype
    "Number format of the vectors in the blob."
    created_at: datetime
    expires_at: datetime | None
    metadata: dict[str, str]

    @property
    def weak_lines(self) -> list[int]:
        """Lines of the documents of which less than half came back when they were read back."""
        return sorted(
            {line for page in self.pages if page.read_back for line in page.read_back.weak_lines}
        )


class MemorySummary(Described):
    """A memory in a list; `GET /memories/{id}` tells the rest."""

    memory_id: MemoryId
    name: str | None
    "Name that it was given."
    model: str
    "Name of the checkpoint that wrote it."
    created_at: datetime
    expires_at: datetime | None
    metadata: dict[str, str]


class MemoriesResponse(Described):
    """A part of the list of memories, the newest first."""

    memories: list[MemorySummary]
    next_cursor: str | None
    """Cursor of the next part; null at the end. A part may have fewer memories than `limit`, even
    none, before the end: a rare filter takes several."""


class MemoryPatch(RequestBody):
    """The body of `PATCH /memories/{id}`, a merge patch (RFC 7396): what it leaves out stays."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"name": "Alice", "metadata": {"user": "42", "draft": None}, "ttl_seconds": 3600}
            ]
        }
    )

    name: Name | None = None
    "The new name; null for none."
    metadata: Annotated[
        Annotated[dict[MetadataKey, MetadataValue | None], Field(max_length=MAX_METADATA)] | None,
        BeforeValidator(_refuse_many_entries),
    ] = None
    "Entries to set; a value of null removes its entry, and null in place of the object all."
    ttl_seconds: Annotated[TtlSeconds | None, WHOLE] = None
    "Seconds from now until the memory is deleted; null for never."


class FilterBody(RequestBody):
    """Conditions on memories, all of which have to hold; at least one."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    name: Name | None = None
    model: Text | None = None
    "Name of the checkpoint that wrote the memory."
    metadata: Metadata | None = None
    "Entries that the memory has."
    expires_before: Annotated[AwareDatetime | None, Field(strict=False)] = None
    "The memory expires before this time (RFC 3339)."

    @model_validator(mode="after")
    def _check_conditions(self) -> "FilterBody":
        if not any((self.name, self.model, self.metadata, self.expires_before)):
            raise ValueError("name at least one condition")
        return self


class DeleteRequest(RequestBody):
    """The body of `POST /memories/delete`: either ids or a filter."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"filter": {"metadata": {"user": "42"}}}],
            # See _check_choice.
            "oneOf": [
                {"required": ["memory_ids"], "properties": {"memory_ids": {"type": "array"}}},
                {"required": ["filter"], "properties": {"filter": {"type": "object"}}},
            ],
        }
    )

    memory_ids: list[MemoryId] | None = Field(default=None, min_length=1, max_length=MAX_LIST)
    "Ids of the memories; those that do not exist are passed over."
    filter: FilterBody | None = None
    cursor: str | None = None
    "`next_cursor` of the response before, where a filter takes several."

    @model_validator(mode="after")
    def _check_choice(self) -> "DeleteRequest":
        if (self.memory_ids is None) == (self.filter is None):
            raise ValueError("give either memory_ids or filter")
        return self


class DeleteResponse(Described):
    """The response to `POST /memories/delete`."""

    deleted: int
    "Memories that were deleted."
    next_cursor: str | None
    "Send the filter again with this cursor: more memories may pass; null when all are deleted."


class WriteResult(MemoryInfo):
    """The response to `POST /write`: the memory, and remarks on the document."""

    duplicate_keys: list[str]
    "Keys that occur more than once, as last written; only the last value was kept."
    skipped_lines: list[int]
    "Lines, from 1, that are not a record and were skipped."


class ReadRequest(RequestBody):
    """The body of `POST /read`: one `query` or several `queries` to a memory."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"memory_id": EXAMPLE_ID, "query": "door code"}],
            # See _check_queries.
            "oneOf": [
                {"required": ["query"], "properties": {"query": {"type": "string"}}},
                {"required": ["queries"], "properties": {"queries": {"type": "array"}}},
            ],
        }
    )

    memory_id: MemoryId
    query: Text | None = None
    queries: list[Text] | None = Field(default=None, min_length=1, max_length=MAX_QUERIES)
    max_new_tokens: Annotated[Annotated[int, Field(ge=1)] | None, WHOLE] = None
    "Most tokens of an answer; the checkpoint's limit by default."
    temperature: float = Field(default=0.0, ge=0, le=100)
    "0 takes the likeliest token; above 0, tokens are drawn."
    top_p: float = Field(default=1.0, gt=0, le=1)
    "Share of the probability mass from which tokens are drawn."
    seed: Annotated[Annotated[int, Field(ge=0, lt=2**63)], WHOLE] = 0
    "Seed of the draws."
    min_confidence: float | None = Field(default=None, ge=0, le=1)
    """Answers with less confidence count as not found; the checkpoint's own threshold by default, 0
    where it has none."""
    stream: bool = False
    "Respond with server-sent events: each token, then all answers."
    timeout: Timeout | None = None
    "Seconds after which the service answers 504; it has a limit of its own."

    @model_validator(mode="after")
    def _check_queries(self) -> "ReadRequest":
        if (self.query is None) == (self.queries is None):
            raise ValueError("give either query or queries")
        return self

    @property
    def all_queries(self) -> list[str]:
        """The queries, in either form."""
        return self.queries or [self.query or ""]


class PromptEmbedsRequest(RequestBody):
    """The body of `POST /memories/{id}/prompt-embeds`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"query": "Who built the garden house?", "form": "completions"}]
        }
    )

    query: Text | None = None
    "A query, whose token embeddings come after the memory; none by default."
    page: Text | None = None
    "The page, where the memory has several."
    form: EmbedsForm = "safetensors"
    "The form of the vectors, see `GET /memories/{id}/prompt-embeds`."


Reason = Literal["not stated", "below threshold"]


class AnswerInfo(Described):
    """The answer to one query."""

    query: str
    found: bool
    "True when the memory has an answer and is confident enough of it."
    answer: str | None
    "The answer; null where none was found."
    reason: Reason | None
    """Why none was found: `not stated`, the memory has no answer; `below threshold`, the confidence
    of its answer is below `min_confidence`."""
    page_id: PageId
    "The page that answered."
    confidence: float
    """Probability that the result is right, be it an answer or none, 0 to 1. Checkpoints without a
    calibration report the mean probability of the answer's tokens."""
    query_tokens: int
    "Tokens of the query, with the checkpoint's text around it."
    tokens: int
    "Tokens of the answer."
    finish_reason: Literal["stop", "length"]
    "`stop`: the model ended the answer; `length`: `max_new_tokens` did."

    def __bool__(self) -> bool:
        """True when an answer was found."""
        return self.found


class ReadResponse(Described):
    """The answers in the order of the queries."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "answers": [
                        {
                            "query": "door code",
                            "found": True,
                            "answer": "4711#",
                            "reason": None,
                            "page_id": EXAMPLE_PAGE_ID,
                            "confidence": 0.99,
                            "query_tokens": 11,
                            "tokens": 5,
                            "finish_reason": "stop",
                        }
                    ],
                    "tokens": 5,
                }
            ]
        }
    )

    answers: list[AnswerInfo]
    tokens: int
    "Tokens of all answers."


class StreamEvent(Described):
    """An event of a stream before its result."""

    event_name: ClassVar[str]


class StepEvent(StreamEvent):
    """An event of `POST /write` with `Accept: text/event-stream`."""

    event_name: ClassVar[str] = "step"
    page: int
    """Page number, from 0, in the order of writing: the pages of the document, then the halves of
    weak pages, which may replace their page in the result."""
    step: int
    "Number of the gradient step, from 1."
    loss: float
    "Reconstruction loss before it, nats per token."


class TokenRecall(Described):
    """A token of a page, and how well it can be told from the memory and the tokens before it."""

    text: str
    "Text that it adds to the page; empty for part of a character, which the last part has whole."
    before: float
    "Its probability from the initial memory M0, 0 to 1."
    after: float
    "Its probability from the written memory."


class RecallEvent(StreamEvent):
    """An event of `POST /write` with `recall`, once WRITE is done."""

    event_name: ClassVar[str] = "recall"
    page: int
    "Number of the page, from 0, among those of the document in the result."
    tokens: list[TokenRecall]
    """Its tokens: a page of a text may begin with the heading that it continues. The mean of their
    negative logarithms is the page's first loss, and its last."""


class TokenEvent(StreamEvent):
    """An event of `POST /read` with `stream`.

    Where documents are lists of records or the memory has several pages, the tokens of an answer
    come together, once it was found.
    """

    event_name: ClassVar[str] = "token"
    query: int
    "Number of the query, from 0."
    text: str
    "Text added to its answer, which the result may still count as not found."
    probability: float
    "Probability of the token, given the memory, the query and the tokens before it."


class ModelCard(Described):
    """The purpose of a checkpoint, with an example."""

    name: str
    purpose: str
    "Uses that it is meant for, and those it is not; empty where its makers have not said."
    document_format: Literal["text", "records"]
    "Documents are any text, or lists of records."
    example_document: str
    example_query: str
    example_answer: str


class ModelInfo(ModelCard):
    """A served checkpoint and its limits."""

    fingerprint: str
    task: str
    "Task that it was trained on."
    memory_tokens: int
    "Vectors in a memory."
    width: int
    "Elements of a vector."
    write_steps: int
    "Gradient steps by default."
    max_write_steps: int
    max_context_tokens: int
    "Most tokens of a page, or of a text that is not split."
    page_tokens: int | None
    """Most tokens of a page of a text that is split; null where texts are not split, and for lists
    of records, whose pages have up to `max_context_tokens`."""
    max_query_tokens: int
    max_answer_tokens: int
    cache_bytes_per_token: int
    "Bytes of a document token in the backbone's float32 KV cache, for comparison."


class ModelsResponse(Described):
    """The served checkpoints; the first is the default."""

    models: list[ModelInfo]


class LimitsResponse(Described):
    """The limits of requests; those of checkpoints are in `ModelInfo`."""

    body_bytes: int
    "Largest request body, in bytes."
    import_bytes: int
    "Largest body of the import of a memory, in bytes."
    header_bytes: int
    "Largest header, in bytes."
    body_seconds: float
    "Longest time that a body may take to arrive."
    header_seconds: float
    "Longest time that a header may take to arrive."
    timeout_seconds: float
    "Longest time of a request, and its time where it names none."
    wait_seconds: float
    "Longest time that a request may be expected to wait; ten times its own for a WRITE, if longer."
    tokens: int
    "Most tokens of all clients' requests at a time; three quarters of them for WRITE."
    connections: int
    "Most connections of all clients; fewer where the process may open only few files."
    pages: int
    "Most pages of a memory."
    queries: int = MAX_QUERIES
    "Most queries of a READ."
    batch_documents: int = MAX_DOCUMENTS
    "Most documents of a batch."
    jobs: int
    "Most jobs of the tenant that have not ended."
    ended_jobs: int
    "About the most jobs of the tenant that are kept after their end, the newest."
    job_seconds: int
    "Time for which a job and its results are kept after its end."
    idempotency_keys: int | None
    """Most idempotency keys of the tenant that are remembered; beyond that, new ones are refused.
    null for no limit."""
    metadata_entries: int = MAX_METADATA
    "Most entries of a memory's metadata."
    metadata_name_characters: int = MAX_METADATA_NAME
    "Longest name of an entry."
    metadata_value_characters: int = MAX_METADATA_VALUE
    "Longest value of an entry."
    tenant: str
    "Tenant whose memories the request may use."
    role: str
    "Most that the request may do: read, write or admin."
    requests_per_second: int | None
    "Most requests per second, and at once, of the key; null for no limit."
    memories: int | None
    "Most memories of the tenant; null for no limit."
    memories_used: int
    "Memories of the tenant; those that expired within the last minute may still count."
    bytes: int | None
    "Most bytes of the tenant's memories in the store; null for no limit."
    bytes_used: int
    "Their bytes, names and metadata included."


class Status(Described):
    """The response of the health routes."""

    status: Literal["ok"] = "ok"


OMITTED: Any = Field(default=None, exclude_if=lambda value: value is None)
"A field that is left out where there is nothing to say."


class Problem(Described):
    """A problem as defined by RFC 9457 (`application/problem+json`)."""

    type: str
    "Stable name of the problem type."
    title: str
    status: int
    detail: str
    "Cause of the problem, and what to do about it."
    limit: int | None = OMITTED
    "The limit that was hit, where there was one."
    positions: list[int] | None = OMITTED
    "Positions of the first offending characters, from 0."
    errors: list[dict[str, str]] | None = OMITTED
    "Each invalid field, without its value."
    request_id: str | None = OMITTED
    "Id of the request, by which its lines in the log are found; also in `X-Request-Id`."
