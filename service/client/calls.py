"""Each call as a value: the request that asks it and how its answer is read. No input or output."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypedDict, TypeVar
from urllib.parse import quote

import httpx

from service.client.errors import refusal_of, unexpected
from service.schemas import (
    AnswerInfo,
    MemoryInfo,
    ModelInfo,
    ModelsResponse,
    ReadResponse,
    WriteResult,
)

T = TypeVar("T")


class WriteOptions(TypedDict, total=False):
    """What may be said of a WRITE; None is the same as nothing."""

    model: str | None
    "Name of the checkpoint that writes; the service's first by default."
    steps: int | Literal["auto"] | None
    """Gradient steps (K), or `auto` for as many as still help; the checkpoint's own number by
    default."""
    timeout: float | None
    "Seconds after which the service gives up; it has a limit of its own."
    ttl_seconds: int | None
    "Seconds until the memory is deleted; kept until deleted by default."
    metadata: dict[str, str] | None
    "Names and values of your own, returned with the memory."
    append_to: str | None
    "Add the document to this memory. Goes without ttl_seconds and metadata."
    verify: bool | None
    "Read back what was written, and write weak pages again in halves; True by default."


class SamplingOptions(TypedDict, total=False):
    """What may be said of the answers of a READ; None is the same as nothing."""

    max_new_tokens: int | None
    "Most tokens of an answer; the checkpoint's limit by default."
    temperature: float | None
    "0, the default, takes the likeliest token; above, tokens are drawn."
    top_p: float | None
    "Share of the probability mass that tokens are drawn from; all of it by default."
    seed: int | None
    "Seed of the draws, 0 by default."
    min_confidence: float | None
    "Answers of less confidence, 0 to 1, count as not found; the checkpoint's own bound by default."
    timeout: float | None
    "Seconds after which the service gives up; it has a limit of its own."


@dataclass(frozen=True)
class Call(Generic[T]):
    """One exchange with the service."""

    method: str
    path: str
    "Path below the base URL."
    parse: Callable[[bytes], T]
    "Reads the body of a success; raises ValueError where it is not what was promised."
    body: dict[str, object] | None = None
    "What to send; fields that are None are left to the service's defaults."

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """The request, as this httpx client sends it."""
        if self.body is None:
            return http.build_request(self.method, self.path)
        given = {name: value for name, value in self.body.items() if value is not None}
        return http.build_request(
            self.method,
            self.path,
            content=json.dumps(given),
            headers={"Content-Type": "application/json"},
        )

    def result(self, response: httpx.Response) -> T:
        """The result that a response holds.

        Raises:
            ProblemError: The service answered with a problem.
            UnexpectedResponse: The service would not answer so.
        """
        if not response.is_success:
            raise refusal_of(response)
        try:
            return self.parse(response.content)
        except ValueError as error:
            raise unexpected(response) from error


def write(document: str, options: WriteOptions) -> Call[WriteResult]:
    """`POST /write`."""
    body = {"document": document, **options}
    return Call("POST", "/write", WriteResult.model_validate_json, body)


def read(memory_id: str, queries: list[str], sampling: SamplingOptions) -> Call[list[AnswerInfo]]:
    """`POST /read` for several queries."""

    def answers(body: bytes) -> list[AnswerInfo]:
        found = ReadResponse.model_validate_json(body).answers
        if len(found) != len(queries):
            raise ValueError(f"{len(found)} answers to {len(queries)} queries")
        return found

    return Call("POST", "/read", answers, {"memory_id": memory_id, "queries": queries, **sampling})


def show(memory_id: str) -> Call[MemoryInfo]:
    """`GET /memories/{id}`."""
    return Call("GET", _memory_path(memory_id), MemoryInfo.model_validate_json)


def prompt_embeds(memory_id: str, page_id: str | None) -> Call[bytes]:
    """`GET /memories/{id}/prompt-embeds`."""
    query = "" if page_id is None else f"?page={_quoted(page_id)}"
    return Call("GET", f"{_memory_path(memory_id)}/prompt-embeds{query}", bytes)


def delete(memory_id: str) -> Call[None]:
    """`DELETE /memories/{id}`."""
    return Call("DELETE", _memory_path(memory_id), _nothing)


def delete_page(memory_id: str, page_id: str) -> Call[None]:
    """`DELETE /memories/{id}/pages/{page}`."""
    return Call("DELETE", f"{_memory_path(memory_id)}/pages/{_quoted(page_id)}", _nothing)


def models() -> Call[list[ModelInfo]]:
    """`GET /models`."""
    return Call("GET", "/models", lambda body: ModelsResponse.model_validate_json(body).models)


def ready() -> Call[None]:
    """`GET /readyz`."""
    return Call("GET", "/readyz", _nothing)


def _memory_path(memory_id: str) -> str:
    return "/memories/" + _quoted(memory_id)


def _quoted(id_: str) -> str:
    # Dots too, or `..` would name another route; what cannot be encoded is the id of nothing.
    return quote(id_, safe="", errors="replace").replace(".", "%2E")


def _nothing(body: bytes) -> None:
    """The status says it all."""
