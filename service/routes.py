"""The HTTP routes."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from gradmem_core.config import EmbedsForm
from gradmem_core.errors import EngineStoppedError
from gradmem_core.prompt_embeds import export_initial_memory
from service.app_state import state_of
from service.bodies import JSON, describe_body, describe_problems, json_body, respond
from service.clients import (
    client_of,
    identity_of,
    needs,
    prefers_async,
    quota_of,
    tenant_of,
)
from service.descriptions import describe_limits, describe_model
from service.idempotency import Claim
from service.jobs.schemas import JobInfo, SingleRequest
from service.jobs.submission import IdempotencyKey, respond_once
from service.schemas import (
    EXAMPLE_ID,
    EXAMPLE_PAGE_ID,
    LimitsResponse,
    MemoryInfo,
    ModelsResponse,
    PageRequest,
    PromptEmbedsRequest,
    ReadRequest,
    ReadResponse,
    Status,
    WriteRequest,
    WriteResult,
)
from service.streams import EVENT_STREAM, STREAMED, run_while_connected, stream_events
from service.telemetry import CONTENT_TYPE
from service.writing import EmitProgress

MemoryPath = Annotated[str, Path(description="A memory's handle.", examples=[EXAMPLE_ID])]

SAFETENSORS = "application/vnd.safetensors"

WriteBody = Annotated[SingleRequest, json_body(SingleRequest)]

PageBody = Annotated[PageRequest, json_body(PageRequest)]

ReadBody = Annotated[ReadRequest, json_body(ReadRequest)]

PromptEmbedsBody = Annotated[PromptEmbedsRequest, json_body(PromptEmbedsRequest)]

PROMPT_EMBEDS: dict[int | str, dict[str, Any]] = {
    200: {"content": {SAFETENSORS: {}, JSON: {}}, "description": "The vectors"}
}
"The OpenAPI entry of exported vectors."

PagePath = Annotated[str, Path(description="A page's id.", examples=[EXAMPLE_PAGE_ID])]


router = APIRouter(responses=describe_problems(400, 401, 403, 421, 429, 431, 503))
"Routes take the state from their request: FastAPI would resolve a dependency in a thread."


@router.post(
    "/write",
    dependencies=[needs("write", operation="write", unless=prefers_async)],
    status_code=201,
    tags=["memories"],
    response_model=WriteResult,
    responses={
        200: {**STREAMED[200], "description": "The events of a stream"},
        202: {"model": JobInfo, "description": "The job"},
        **describe_problems(404, 408, 409, 413, 415, 422, 429, 503, 504, 507),
    },
    openapi_extra=describe_body(SingleRequest),
)
async def write(body: WriteBody, request: Request, key: IdempotencyKey = None) -> Response:
    """Compress a document into a memory and forget the text.

    With `Accept: text/event-stream` the response is a stream of events: `step` after each gradient
    step, `recall` for each page if asked for, then `result` with the memory, or `error` with a
    problem.

    With an `Idempotency-Key` the request can be sent again: for 24 hours, the same key and body
    give the same memory (`Idempotency-Replayed: true`).

    With `Prefer: respond-async` the response is a job (202), see `GET /jobs/{id}`.
    """

    async def respond_now(claim: Claim | None) -> Response:
        work = partial(_write, request, body, claim)
        return await _respond_written(request, work, size=len(body.document), status=201)

    return await respond_once(request, body, [body], key, respond_now)


async def _write(
    request: Request, body: WriteRequest, claim: Claim | None, emit: EmitProgress | None = None
) -> WriteResult:
    """Write a document, under its claim where it has one; find it where it has been written."""
    writer, tenant = state_of(request).writer, tenant_of(request)
    if claim is None:
        return await writer.write(
            body, emit, tenant=tenant, quota=quota_of(request), share=client_of(request)
        )
    write_id = claim.derive_id("0")
    if claim.result is not None:
        return await writer.find(body, tenant=tenant, write_id=write_id)
    return await claim.run(
        partial(
            writer.write,
            body,
            emit,
            tenant=tenant,
            quota=quota_of(request),
            share=client_of(request),
            write_id=write_id,
            is_new=claim.is_new,
        )
    )


async def _respond_written(
    request: Request, work: Callable[..., Awaitable[WriteResult]], *, size: int, status: int
) -> Response:
    """Respond with the result of a WRITE, after its steps where the client wants a stream."""
    if EVENT_STREAM in request.headers.get("accept", ""):
        return await stream_events(request, work)
    result = await run_while_connected(request, work())
    return await respond(result, size=size, status=status)


@router.post(
    "/read",
    dependencies=[needs("read", operation="read")],
    tags=["memories"],
    response_model=ReadResponse,
    responses={**STREAMED, **describe_problems(404, 408, 409, 413, 415, 422, 429, 503, 504)},
    openapi_extra=describe_body(ReadRequest),
)
async def read(body: ReadBody, request: Request) -> Response:
    """Answer queries from a memory alone.

    With `stream` the response is a stream of events: `token` after each token (for lists of
    records, and memories of several pages: once the answer was found), then `result` with all
    answers, or `error` with a problem.
    """
    work = partial(
        state_of(request).reader.read, body, tenant=tenant_of(request), share=client_of(request)
    )
    if body.stream:
        return await stream_events(request, work)
    result = await run_while_connected(request, work())
    return await respond(result, size=sum(map(len, body.all_queries)), status=200)


@router.get(
    "/memories/{memory_id}",
    dependencies=[needs("read")],
    tags=["memories"],
    responses=describe_problems(404, 503),
)
async def show(memory_id: MemoryPath, request: Request) -> MemoryInfo:
    """Describe a memory."""
    return await state_of(request).memories.show(tenant_of(request), memory_id)


@router.get(
    "/memories/{memory_id}/prompt-embeds",
    dependencies=[needs("read")],
    tags=["memories"],
    response_class=Response,
    responses={**PROMPT_EMBEDS, **describe_problems(404, 409, 422, 503)},
)
async def prompt_embeds(
    memory_id: MemoryPath,
    request: Request,
    page: Annotated[str | None, Query(description="The page, where there are several.")] = None,
    form: Annotated[EmbedsForm, Query(description="The form of the vectors.")] = "safetensors",
) -> Response:
    """Export a memory for other engines, as vectors `(m, d)`.

    They take the place of the document, before the embeddings of a query, and are as secret as the
    document. Forms: `safetensors`, a file with the tensor `prompt_embeds`; for vLLM's server, JSON
    with `torch.save`'s bytes in base64: `completions`, the field `prompt_embeds` of a request;
    `chat`, a part of a message's content.
    """
    return await _export(request, memory_id, page, query=None, form=form)


@router.post(
    "/memories/{memory_id}/prompt-embeds",
    dependencies=[needs("read")],
    tags=["memories"],
    response_class=Response,
    responses={**PROMPT_EMBEDS, **describe_problems(404, 408, 409, 413, 415, 422, 503)},
    openapi_extra=describe_body(PromptEmbedsRequest),
)
async def prompt_embeds_with_query(
    memory_id: MemoryPath, body: PromptEmbedsBody, request: Request
) -> Response:
    """Export a memory with a query after it, a whole prompt: vectors `(m + tokens, d)`.

    The query is in the body, where proxies do not log it. A greedy answer to the prompt is READ's.
    """
    return await _export(request, memory_id, body.page, query=body.query, form=body.form)


async def _export(
    request: Request, memory_id: str, page: str | None, *, query: str | None, form: EmbedsForm
) -> Response:
    content = await state_of(request).transfer.export_embeds(
        tenant_of(request), memory_id, page, query=query, form=form
    )
    return Response(content, media_type=SAFETENSORS if form == "safetensors" else JSON)


@router.delete(
    "/memories/{memory_id}",
    dependencies=[needs("write")],
    status_code=204,
    tags=["memories"],
    responses=describe_problems(404, 503, 507),
)
async def delete(memory_id: MemoryPath, request: Request) -> None:
    """Delete a memory for good."""
    await state_of(request).memories.delete(tenant_of(request), memory_id)


@router.delete(
    "/memories/{memory_id}/pages/{page_id}",
    dependencies=[needs("write")],
    status_code=204,
    tags=["memories"],
    responses=describe_problems(404, 409, 422, 503, 507),
)
async def delete_page(memory_id: MemoryPath, page_id: PagePath, request: Request) -> None:
    """Delete a page of a memory for good, and the pages that belong to it (see `PUT`).

    The last page can only be deleted with the memory.
    """
    await state_of(request).memories.delete_page(tenant_of(request), memory_id, page_id)


@router.put(
    "/memories/{memory_id}/pages/{page_id}",
    dependencies=[needs("write", operation="write")],
    tags=["memories"],
    response_model=WriteResult,
    responses={**STREAMED, **describe_problems(404, 408, 409, 413, 415, 422, 429, 503, 504, 507)},
    openapi_extra=describe_body(PageRequest),
)
async def replace_page(
    memory_id: MemoryPath, page_id: PagePath, body: PageBody, request: Request
) -> Response:
    """Write a page of a memory again, from a new text that takes the place of the old one.

    The memory keeps its id, its other pages and its expiry, the page its id and its place. Where
    the text needs several pages, the others follow the first and belong to it: they are replaced
    and deleted with it. Until all are written, the old page answers. May be repeated. For `Accept:
    text/event-stream` see `POST /write`.
    """
    work = partial(
        state_of(request).writer.write_page,
        body,
        tenant=tenant_of(request),
        memory_id=memory_id,
        page_id=page_id,
        quota=quota_of(request),
        share=client_of(request),
    )
    return await _respond_written(request, work, size=len(body.document), status=200)


@router.get("/models", dependencies=[needs("read")], tags=["models"])
async def models(request: Request) -> ModelsResponse:
    """List the served checkpoints with their limits; the first is the default."""
    return ModelsResponse(models=[describe_model(c) for c in state_of(request).models.all()])


@router.get(
    "/models/{name}/initial-memory",
    dependencies=[needs("read")],
    tags=["models"],
    response_class=Response,
    responses={200: {"content": {SAFETENSORS: {}}, "description": "M0"}, **describe_problems(404)},
)
async def initial_memory(
    name: Annotated[str, Path(description="A checkpoint's name.", examples=["prose"])],
    request: Request,
) -> Response:
    """Export the memory from which a checkpoint's WRITE starts, M0, as vectors `(m, d)`.

    It is a safetensors file like those of `GET /memories/{id}/prompt-embeds`.
    """
    content = await asyncio.to_thread(
        export_initial_memory, state_of(request).models.get(name).model
    )
    return Response(content, media_type=SAFETENSORS)


@router.get(
    "/limits", dependencies=[needs("read")], tags=["models"], responses=describe_problems(503)
)
async def limits(request: Request) -> LimitsResponse:
    """List the limits of requests and of the key, and what the tenant has in the store.

    The limits of checkpoints are in `/models`.
    """
    state = state_of(request)
    usage = await state.store.usage(tenant_of(request))
    return describe_limits(
        state.settings,
        identity_of(request),
        quota_of(request),
        usage,
        import_bytes=state.import_bytes,
    )


@router.get("/livez", tags=["operations"], responses=describe_problems(503))
async def livez(request: Request) -> Status:
    """Report that the service answers and has not lost its device."""
    if not state_of(request).engine.alive:
        raise EngineStoppedError("the device is lost; restart the service")
    return Status()


@router.get("/readyz", tags=["operations"], responses=describe_problems(503))
async def readyz(request: Request) -> Status:
    """Report that the device works and the store takes memories; name the part that fails.

    The answer comes at once, from the state that a probe of the store keeps every few seconds.
    """
    state_of(request).readiness.check()
    return Status()


@router.get(
    "/metrics",
    dependencies=[needs("admin", without_store=True)],
    tags=["operations"],
    response_class=Response,
)
async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text format."""
    return Response(state_of(request).telemetry.exposition(), media_type=CONTENT_TYPE)
