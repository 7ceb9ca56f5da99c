"""The HTTP routes. Each hands over to `Memories` and returns what comes back."""

import asyncio
from functools import partial
from typing import Annotated, Any

import torch
from fastapi import APIRouter, Path, Query, Request, Response

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import EngineStoppedError, OverloadedError
from service.models import card_of
from service.schemas import (
    EXAMPLE_ID,
    EXAMPLE_PAGE_ID,
    MemoryInfo,
    ModelInfo,
    ModelsResponse,
    Problem,
    ReadRequest,
    ReadResponse,
    Status,
    WriteRequest,
    WriteResult,
)
from service.state import state_of
from service.streams import EVENT_STREAM, event_stream, while_there
from service.telemetry import CONTENT_TYPE

MemoryPath = Annotated[str, Path(description="A memory's handle.", examples=[EXAMPLE_ID])]

SAFETENSORS = "application/vnd.safetensors"

PagePath = Annotated[str, Path(description="A page's id.", examples=[EXAMPLE_PAGE_ID])]


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries of the problems that a route answers with."""
    content = {"application/problem+json": {"schema": Problem.model_json_schema()}}
    return {status: {"description": "Problem", "content": content} for status in statuses}


router = APIRouter()
"A route takes the state from its request: as a dependency FastAPI would fetch it in a thread."


@router.post(
    "/write",
    status_code=201,
    tags=["memories"],
    response_model=WriteResult,
    responses=_problems(404, 409, 413, 422, 429, 503, 504),
)
async def write(body: WriteRequest, request: Request) -> WriteResult | Response:
    """Compress a document into a memory and forget the text.

    With `Accept: text/event-stream` the answer is a stream of events: `step` after each gradient
    step, then `result` with the memory, or `error` with a problem.
    """
    memories = state_of(request).memories
    if EVENT_STREAM in request.headers.get("accept", ""):
        return await event_stream(request, partial(memories.write, body))
    return await while_there(request, memories.write(body))


@router.post(
    "/read",
    tags=["memories"],
    response_model=ReadResponse,
    responses=_problems(404, 409, 413, 422, 429, 503, 504),
)
async def read(body: ReadRequest, request: Request) -> ReadResponse | Response:
    """Answer queries from a memory alone.

    With `stream` the answer is a stream of events: `token` after each token (for lists
    of records: after each answer), then `result` with
    all answers, or `error` with a problem.
    """
    memories = state_of(request).memories
    if body.stream:
        return await event_stream(request, partial(memories.read, body))
    return await while_there(request, memories.read(body))


@router.get("/memories/{memory_id}", tags=["memories"], responses=_problems(404, 503))
async def show(memory_id: MemoryPath, request: Request) -> MemoryInfo:
    """What is known of a memory."""
    return await state_of(request).memories.show(memory_id)


@router.get(
    "/memories/{memory_id}/prompt-embeds",
    tags=["memories"],
    response_class=Response,
    responses={
        200: {"content": {SAFETENSORS: {}}, "description": "A safetensors file"},
        **_problems(404, 409, 422, 503),
    },
)
async def prompt_embeds(
    memory_id: MemoryPath,
    request: Request,
    page: Annotated[str | None, Query(description="Which page, where there are several.")] = None,
) -> Response:
    """A memory as other engines read it: safetensors with the tensor `prompt_embeds`, `(m, d)`.

    It stands for the document before the embeddings of a query, and is as secret as the document.
    """
    content = await state_of(request).memories.prompt_embeds(memory_id, page)
    return Response(content, media_type=SAFETENSORS)


@router.delete(
    "/memories/{memory_id}", status_code=204, tags=["memories"], responses=_problems(404, 503)
)
async def delete(memory_id: MemoryPath, request: Request) -> None:
    """Delete a memory for good."""
    await state_of(request).memories.delete(memory_id)


@router.delete(
    "/memories/{memory_id}/pages/{page_id}",
    status_code=204,
    tags=["memories"],
    responses=_problems(404, 409, 422, 503),
)
async def delete_page(memory_id: MemoryPath, page_id: PagePath, request: Request) -> None:
    """Delete a page of a memory for good; its last one goes with the memory only."""
    await state_of(request).memories.delete_page(memory_id, page_id)


@router.get("/models", tags=["models"])
async def models(request: Request) -> ModelsResponse:
    """The served checkpoints with their limits; the first is the default."""
    return ModelsResponse(
        models=[_model_info(checkpoint) for checkpoint in state_of(request).models.all()]
    )


@router.get("/livez", tags=["operations"], responses=_problems(503))
async def livez(request: Request) -> Status:
    """The process answers and its device thread runs."""
    if not state_of(request).engine.alive:
        raise EngineStoppedError("the device thread has ended; restart the service")
    return Status()


@router.get("/readyz", tags=["operations"], responses=_problems(429, 503))
async def readyz(request: Request) -> Status:
    """A tiny memory of every model was written and read on the device, and the store answers."""
    state = state_of(request)
    limit = state.settings.ready_timeout_seconds
    try:
        async with asyncio.timeout(limit):
            await state.memories.check()
    except TimeoutError as error:
        raise OverloadedError(f"no answer from device and store within {limit:g} s") from error
    return Status()


@router.get("/metrics", tags=["operations"], response_class=Response)
async def metrics(request: Request) -> Response:
    """Metrics in Prometheus' text format."""
    return Response(state_of(request).telemetry.exposition(), media_type=CONTENT_TYPE)


def _model_info(checkpoint: Checkpoint) -> ModelInfo:
    config, backbone = checkpoint.model.config, checkpoint.model.backbone
    return ModelInfo(
        **card_of(checkpoint.name, checkpoint.task).model_dump(),
        fingerprint=checkpoint.fingerprint,
        task=checkpoint.task.name,
        memory_tokens=config.memory_tokens,
        width=backbone.width,
        write_steps=config.write_steps,
        max_write_steps=config.max_write_steps,
        max_context_tokens=config.max_context_tokens,
        page_tokens=config.page_tokens,
        max_query_tokens=config.max_query_tokens,
        max_answer_tokens=config.max_answer_tokens,
        cache_bytes_per_token=backbone.cache_elements_per_token * torch.float32.itemsize,
    )
