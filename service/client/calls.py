"""The calls of the HTTP API as values: the request to send and the parser of its response."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Literal, NoReturn, TypedDict, TypeVar
from urllib.parse import quote, urlencode

import httpx

from gradmem_core.config import EmbedsForm
from service.client.errors import error_of, unexpected_response
from service.schemas import (
    AnswerInfo,
    DeleteResponse,
    MemoriesResponse,
    MemoryInfo,
    ModelInfo,
    ModelsResponse,
    ReadResponse,
    WriteResult,
)

T = TypeVar("T")


class WriteOptions(TypedDict, total=False):
    """Options of a WRITE; None is the same as leaving one out."""

    model: str | None
    "Name of the checkpoint that writes; the service's first by default."
    steps: int | Literal["auto"] | None
    """Gradient steps (K), or `auto` for as many as reduce the loss; the checkpoint's own number by
    default."""
    timeout: float | None
    "Seconds after which the service gives up; it has a limit of its own."
    ttl_seconds: int | None
    "Seconds until the memory is deleted; never by default."
    name: str | None
    "Name for people and for lists; several memories may have the same."
    metadata: dict[str, str] | None
    "Names and values of your own, returned with the memory."
    append_to: str | None
    "Add the document to this memory. Excludes ttl_seconds, name and metadata."
    verify: bool | None
    "Read the memory back, and write pages that come back poorly again, in halves; on by default."


class SamplingOptions(TypedDict, total=False):
    """Options of a READ; None is the same as leaving one out."""

    max_new_tokens: int | None
    "Most tokens of an answer; the checkpoint's limit by default."
    temperature: float | None
    "0, the default, takes the likeliest token; above 0, tokens are drawn."
    top_p: float | None
    "Share of the probability mass from which tokens are drawn; all of it by default."
    seed: int | None
    "Seed of the draws, 0 by default."
    min_confidence: float | None
    """Answers with less confidence, 0 to 1, count as not found; the checkpoint's own threshold by
    default."""
    timeout: float | None
    "Seconds after which the service gives up; it has a limit of its own."


class PatchOptions(TypedDict, total=False):
    """Changes of a memory; what is left out stays as it is."""

    name: str | None
    "The new name; None for none."
    metadata: dict[str, str | None] | None
    "Entries to set; a value of None removes its entry, and None in place of the dict all."
    ttl_seconds: int | None
    "Seconds from now until the memory is deleted; None for never."


class FilterOptions(TypedDict, total=False):
    """Conditions on memories, all of which have to hold; None is the same as leaving one out."""

    name: str | None
    "The memory has this name."
    model: str | None
    "This checkpoint wrote it."
    metadata: dict[str, str] | None
    "It has these entries."
    expires_before: datetime | None
    "It expires before this time, which has a time zone."


@dataclass(frozen=True)
class Call(Generic[T]):
    """A call of the service."""

    method: str
    path: str
    "Path below the base URL."
    parse: Callable[[bytes], T]
    "Parses the body of a success; raises ValueError where it is malformed."
    body: dict[str, object] | None = None
    "The JSON to send; fields that are None are left out."
    content: bytes | None = None
    "The bytes to send in place of JSON."
    keep_none: bool = False
    "Send fields that are None as null."

    def build_request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """Return the request, as this httpx client sends it.

        Raises:
            TypeError: A field of the body is of a type that JSON does not have.
        """
        if self.body is None:
            return http.build_request(self.method, self.path, content=self.content)
        fields = {
            name: value for name, value in self.body.items() if value is not None or self.keep_none
        }
        return http.build_request(
            self.method,
            self.path,
            content=json.dumps(fields, default=_refuse),
            headers={"Content-Type": "application/json"},
        )

    def parse_response(self, response: httpx.Response) -> T:
        """Return the result in a response.

        Raises:
            ProblemError: The service answered with a problem.
            UnexpectedResponse: The response is not one of a GradMem service.
        """
        if not response.is_success:
            raise error_of(response)
        try:
            return self.parse(response.content)
        except ValueError as error:
            raise unexpected_response(response) from error


def write(document: str, options: WriteOptions) -> Call[WriteResult]:
    """Return the call of `POST /write`."""
    body = {"document": document, **options}
    return Call("POST", "/write", WriteResult.model_validate_json, body)


def read(memory_id: str, queries: list[str], sampling: SamplingOptions) -> Call[list[AnswerInfo]]:
    """Return the call of `POST /read` for several queries."""

    def parse(body: bytes) -> list[AnswerInfo]:
        answers = ReadResponse.model_validate_json(body).answers
        if len(answers) != len(queries):
            raise ValueError(f"{len(answers)} answers to {len(queries)} queries")
        return answers

    return Call("POST", "/read", parse, {"memory_id": memory_id, "queries": queries, **sampling})


def show(memory_id: str) -> Call[MemoryInfo]:
    """Return the call of `GET /memories/{id}`."""
    return Call("GET", _memory_path(memory_id), MemoryInfo.model_validate_json)


def list_memories(
    wanted: FilterOptions, *, limit: int, cursor: str | None
) -> Call[MemoriesResponse]:
    """Return the call of `GET /memories`."""
    metadata = wanted.get("metadata") or {}
    expires_before = wanted.get("expires_before")
    query = {
        "limit": limit,
        "cursor": cursor,
        "name": wanted.get("name"),
        "model": wanted.get("model"),
        "metadata": [f"{key}={value}" for key, value in metadata.items()],
        "expires_before": expires_before and expires_before.isoformat(),
    }
    given = {name: value for name, value in query.items() if value is not None}
    path = f"/memories?{urlencode(given, doseq=True)}"
    return Call("GET", path, MemoriesResponse.model_validate_json)


def prompt_embeds(
    memory_id: str, page_id: str | None, query: str | None, form: EmbedsForm
) -> Call[bytes]:
    """Return the call of `POST /memories/{id}/prompt-embeds`."""
    body: dict[str, object] = {"page": page_id, "query": query, "form": form}
    return Call("POST", f"{_memory_path(memory_id)}/prompt-embeds", bytes, body)


def blob(memory_id: str) -> Call[bytes]:
    """Return the call of `GET /memories/{id}/blob`."""
    return Call("GET", f"{_memory_path(memory_id)}/blob", bytes)


def put_blob(memory_id: str, content: bytes) -> Call[MemoryInfo]:
    """Return the call of `PUT /memories/{id}/blob`."""
    path = f"{_memory_path(memory_id)}/blob"
    return Call("PUT", path, MemoryInfo.model_validate_json, content=content)


def delete(memory_id: str) -> Call[None]:
    """Return the call of `DELETE /memories/{id}`."""
    return Call("DELETE", _memory_path(memory_id), _parse_nothing)


def patch(memory_id: str, changes: PatchOptions) -> Call[MemoryInfo]:
    """Return the call of `PATCH /memories/{id}`."""
    return Call(
        "PATCH",
        _memory_path(memory_id),
        MemoryInfo.model_validate_json,
        {**changes},
        keep_none=True,
    )


def delete_many(
    memory_ids: list[str] | None, wanted: FilterOptions, cursor: str | None
) -> Call[DeleteResponse]:
    """Return the call of `POST /memories/delete`, by ids or by a filter."""
    expires_before = wanted.get("expires_before")
    conditions = {
        **wanted,
        "expires_before": expires_before and expires_before.isoformat(),
    }
    given = {name: value for name, value in conditions.items() if value is not None}
    body: dict[str, object] = {
        "memory_ids": memory_ids,
        "filter": given if memory_ids is None else None,
        "cursor": cursor,
    }
    return Call("POST", "/memories/delete", DeleteResponse.model_validate_json, body)


def delete_page(memory_id: str, page_id: str) -> Call[None]:
    """Return the call of `DELETE /memories/{id}/pages/{page}`."""
    return Call("DELETE", f"{_memory_path(memory_id)}/pages/{_quote(page_id)}", _parse_nothing)


def models() -> Call[list[ModelInfo]]:
    """Return the call of `GET /models`."""
    return Call("GET", "/models", lambda body: ModelsResponse.model_validate_json(body).models)


def ready() -> Call[None]:
    """Return the call of `GET /readyz`."""
    return Call("GET", "/readyz", _parse_nothing)


def _refuse(value: object) -> NoReturn:
    """Refuse a value that JSON does not have.

    Raises:
        TypeError: Always.
    """
    raise TypeError(
        f"{type(value).__name__} cannot be sent as JSON; texts must be str: decode bytes first"
    )


def _memory_path(memory_id: str) -> str:
    return "/memories/" + _quote(memory_id)


def _quote(id_: str) -> str:
    # Dots too, or `..` would name another route. Text that UTF-8 cannot hold is nobody's id.
    return quote(id_, safe="", errors="replace").replace(".", "%2E")


def _parse_nothing(_body: bytes) -> None:
    """Ignore the body: the status says it all."""
