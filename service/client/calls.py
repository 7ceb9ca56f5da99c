"""The calls of the HTTP API as values: the request to send and the parser of its response."""

import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, NoReturn, TypeVar
from urllib.parse import quote, urlencode

import httpx

from gradmem_core.config import EmbedsForm
from service.client.errors import unexpected_response
from service.client.options import (
    AppendOptions,
    BatchDocument,
    FilterOptions,
    PageOptions,
    PatchOptions,
    SamplingOptions,
    WriteOptions,
)
from service.jobs.schemas import (
    BatchResponse,
    DocumentResult,
    JobInfo,
    JobResults,
    JobsResponse,
)
from service.schemas import (
    AnswerInfo,
    DeleteResponse,
    LimitsResponse,
    MemoriesResponse,
    MemoryInfo,
    ModelInfo,
    ModelsResponse,
    ReadResponse,
    WriteResult,
)

T = TypeVar("T")


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
    headers: Mapping[str, str] = field(default_factory=dict)
    "Headers to send besides those of the body."
    keep_none: bool = False
    "Send fields that are None as null."
    repeatable: bool = False
    "Sending it twice does what sending it once does."

    def encode(self) -> tuple[str | bytes | None, dict[str, str]]:
        """Return the content of the request and its headers.

        Raises:
            TypeError: A field of the body is of a type that JSON does not have.
        """
        if self.body is None:
            return self.content, dict(self.headers)
        fields = self.body if self.keep_none else _drop_none(self.body)
        headers = {"Content-Type": "application/json", **self.headers}
        return json.dumps(fields, default=_refuse), headers

    def build_request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """Return the request, as this httpx client sends it.

        Raises:
            TypeError: A field of the body is of a type that JSON does not have.
        """
        content, headers = self.encode()
        return http.build_request(self.method, self.path, content=content, headers=headers)

    def parse_response(self, response: httpx.Response) -> T:
        """Return the result in a response of success.

        Raises:
            UnexpectedResponse: It is not one of a GradMem service.
        """
        try:
            return self.parse(response.content)
        except ValueError as error:
            raise unexpected_response(response) from error


def write(
    document: str, options: AppendOptions, *, append_to: str | None = None
) -> Call[WriteResult]:
    """Return the call of `POST /write`, which its idempotency key makes repeatable.

    Raises:
        ValueError: The idempotency key is not 1 to 255 visible ASCII characters.
    """
    body: dict[str, object] = {"document": document, "append_to": append_to, **options}
    headers = {"Idempotency-Key": _check_key(body.pop("idempotency_key", None))}
    parse = WriteResult.model_validate_json
    return Call("POST", "/write", parse, body, headers=headers, repeatable=True)


def submit(
    documents: Sequence[str | BatchDocument], options: WriteOptions, *, webhook_url: str | None
) -> Call[JobInfo]:
    """Return the call of `POST /write/batch` that is answered with a job."""
    call = write_many(documents, options)
    body = {**(call.body or {}), "webhook_url": webhook_url}
    headers = {**call.headers, "Prefer": "respond-async"}
    parse = JobInfo.model_validate_json
    return Call("POST", call.path, parse, body, headers=headers, repeatable=True)


def write_many(
    documents: Sequence[str | BatchDocument], options: WriteOptions
) -> Call[list[DocumentResult]]:
    """Return the call of `POST /write/batch`, which its idempotency key makes repeatable.

    Raises:
        ValueError: The idempotency key is not 1 to 255 visible ASCII characters.
    """

    def parse(body: bytes) -> list[DocumentResult]:
        results = BatchResponse.model_validate_json(body).results
        if len(results) != len(documents):
            raise ValueError(f"{len(results)} results of {len(documents)} documents")
        return results

    common: dict[str, object] = {**options}
    headers = {"Idempotency-Key": _check_key(common.pop("idempotency_key", None))}
    bodies = [
        _drop_none({**common, **({"document": each} if isinstance(each, str) else each)})
        for each in documents
    ]
    body: dict[str, object] = {"documents": bodies}
    return Call("POST", "/write/batch", parse, body, headers=headers, repeatable=True)


def stream_write(
    document: str, options: AppendOptions, *, append_to: str | None = None, recall: bool
) -> Call[WriteResult]:
    """Return the call of `POST /write` that is answered with a stream."""
    call = write(document, options, append_to=append_to)
    headers = {**call.headers, "Accept": "text/event-stream"}
    return replace(call, headers=headers, body={**(call.body or {}), "recall": recall or None})


def read(memory_id: str, queries: list[str], sampling: SamplingOptions) -> Call[list[AnswerInfo]]:
    """Return the call of `POST /read` for several queries."""

    def parse(body: bytes) -> list[AnswerInfo]:
        answers = ReadResponse.model_validate_json(body).answers
        if len(answers) != len(queries):
            raise ValueError(f"{len(answers)} answers to {len(queries)} queries")
        return answers

    body: dict[str, object] = {"memory_id": memory_id, "queries": queries, **sampling}
    return Call("POST", "/read", parse, body, repeatable=True)


def stream_read(
    memory_id: str, queries: list[str], sampling: SamplingOptions
) -> Call[list[AnswerInfo]]:
    """Return the call of `POST /read` that is answered with a stream."""
    call = read(memory_id, queries, sampling)
    return replace(call, body={**(call.body or {}), "stream": True})


def show(memory_id: str) -> Call[MemoryInfo]:
    """Return the call of `GET /memories/{id}`."""
    return _get(_memory_path(memory_id), MemoryInfo.model_validate_json)


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
    path = f"/memories?{urlencode(_drop_none(query), doseq=True)}"
    return _get(path, MemoriesResponse.model_validate_json)


def prompt_embeds(
    memory_id: str, page_id: str | None, query: str | None, form: EmbedsForm
) -> Call[bytes]:
    """Return the call of `POST /memories/{id}/prompt-embeds`."""
    body: dict[str, object] = {"page": page_id, "query": query, "form": form}
    path = f"{_memory_path(memory_id)}/prompt-embeds"
    return Call("POST", path, bytes, body, repeatable=True)


def blob(memory_id: str) -> Call[bytes]:
    """Return the call of `GET /memories/{id}/blob`."""
    return _get(f"{_memory_path(memory_id)}/blob", bytes)


def put_blob(memory_id: str, content: bytes) -> Call[MemoryInfo]:
    """Return the call of `PUT /memories/{id}/blob`."""
    path = f"{_memory_path(memory_id)}/blob"
    parse = MemoryInfo.model_validate_json
    return Call("PUT", path, parse, content=content, repeatable=True)


def delete(memory_id: str) -> Call[None]:
    """Return the call of `DELETE /memories/{id}`."""
    return _delete(_memory_path(memory_id))


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
    body: dict[str, object] = {
        "memory_ids": memory_ids,
        "filter": _drop_none(conditions) if memory_ids is None else None,
        "cursor": cursor,
    }
    parse = DeleteResponse.model_validate_json
    return Call("POST", "/memories/delete", parse, body, repeatable=True)


def replace_page(
    memory_id: str, page_id: str, document: str, options: PageOptions
) -> Call[WriteResult]:
    """Return the call of `PUT /memories/{id}/pages/{page}`."""
    body: dict[str, object] = {"document": document, **options}
    return Call(
        "PUT",
        _page_path(memory_id, page_id),
        WriteResult.model_validate_json,
        body,
        repeatable=True,
    )


def show_job(job_id: str) -> Call[JobInfo]:
    """Return the call of `GET /jobs/{id}`."""
    return _get(_job_path(job_id), JobInfo.model_validate_json)


def list_jobs(*, limit: int, cursor: str | None) -> Call[JobsResponse]:
    """Return the call of `GET /jobs`."""
    query = urlencode(_drop_none({"limit": limit, "cursor": cursor}))
    return _get(f"/jobs?{query}", JobsResponse.model_validate_json)


def job_results(job_id: str) -> Call[list[DocumentResult | None]]:
    """Return the call of `GET /jobs/{id}/results`."""
    path = f"{_job_path(job_id)}/results"
    return _get(path, lambda body: JobResults.model_validate_json(body).results)


def cancel_job(job_id: str) -> Call[None]:
    """Return the call of `DELETE /jobs/{id}`, whose repetition would delete what it cancelled."""
    return Call("DELETE", _job_path(job_id), _parse_nothing)


def delete_page(memory_id: str, page_id: str) -> Call[None]:
    """Return the call of `DELETE /memories/{id}/pages/{page}`."""
    return _delete(_page_path(memory_id, page_id))


def models() -> Call[list[ModelInfo]]:
    """Return the call of `GET /models`."""
    return _get("/models", lambda body: ModelsResponse.model_validate_json(body).models)


def limits() -> Call[LimitsResponse]:
    """Return the call of `GET /limits`."""
    return _get("/limits", LimitsResponse.model_validate_json)


def ready() -> Call[None]:
    """Return the call of `GET /readyz`."""
    return _get("/readyz", _parse_nothing)


def _get(path: str, parse: Callable[[bytes], T]) -> Call[T]:
    return Call("GET", path, parse, repeatable=True)


def _delete(path: str) -> Call[None]:
    return Call("DELETE", path, _parse_nothing, repeatable=True)


def _drop_none(fields: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}


def _refuse(value: object) -> NoReturn:
    """Refuse a value that JSON does not have.

    Raises:
        TypeError: Always.
    """
    raise TypeError(
        f"{type(value).__name__} cannot be sent as JSON; texts must be str: decode bytes first"
    )


def _check_key(key: object) -> str:
    """Return an idempotency key, a new one for None.

    Raises:
        ValueError: It is not 1 to 255 visible ASCII characters.
    """
    if key is None:
        return uuid.uuid4().hex
    if not isinstance(key, str) or not re.fullmatch(r"[!-~]{1,255}", key):
        raise ValueError("an idempotency key is 1 to 255 visible ASCII characters")
    return key


def _job_path(job_id: str) -> str:
    return "/jobs/" + _quote(job_id)


def _memory_path(memory_id: str) -> str:
    return "/memories/" + _quote(memory_id)


def _page_path(memory_id: str, page_id: str) -> str:
    return f"{_memory_path(memory_id)}/pages/{_quote(page_id)}"


def _quote(id_: str) -> str:
    # Dots too, or `..` would name another route. Text that UTF-8 cannot hold is nobody's id.
    return quote(id_, safe="", errors="replace").replace(".", "%2E")


def _parse_nothing(_body: bytes) -> None:
    """Ignore the body: the status says it all."""
