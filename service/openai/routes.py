"""The routes of OpenAI's API."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from fastapi.sse import format_sse_event

from service.app_state import state_of
from service.bodies import JSON, describe_body, json_body
from service.clients import client_of, needs, tenant_of
from service.openai.conversion import to_chunks, to_completion, to_read
from service.openai.schemas import (
    ChatCompletion,
    ChatCompletionRequest,
    ErrorResponse,
    ModelList,
    ModelObject,
)
from service.streams import EVENT_STREAM, STREAM_HEADERS, STREAMED, run_while_connected

ChatBody = Annotated[ChatCompletionRequest, json_body(ChatCompletionRequest)]
ModelPath = Annotated[str, Path(description="Name of a checkpoint.", examples=["prose"])]


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI entries of the errors that a route responds with."""
    content = {JSON: {"schema": ErrorResponse.model_json_schema()}}
    return {status: {"description": "Error", "content": content} for status in statuses}


router = APIRouter(
    prefix="/v1",
    tags=["openai"],
    responses=_errors(400, 401, 403, 421, 429, 431, 503),
)


@router.post(
    "/chat/completions",
    dependencies=[needs("read", operation="read")],
    response_model=ChatCompletion,
    responses={**STREAMED, **_errors(404, 408, 409, 413, 415, 422, 429, 503, 504)},
    openapi_extra=describe_body(ChatCompletionRequest),
)
async def create_chat_completion(body: ChatBody, request: Request) -> ChatCompletion | Response:
    """Answer the last user message from a memory alone, as OpenAI's clients ask.

    With `stream` the response is a stream of chunks that ends with `[DONE]`.
    """
    state = state_of(request)
    checkpoint = state.models.get(body.checkpoint)
    read = to_read(body, longest=checkpoint.model.config.max_answer_tokens)
    reading = state.reader.read(
        read, tenant=tenant_of(request), model=checkpoint.name, share=client_of(request)
    )
    (answer,) = (await run_while_connected(request, reading)).answers
    completion = to_completion(body, checkpoint, answer)
    return _stream(completion, body) if body.stream else completion


@router.get("/models", dependencies=[needs("read")])
async def list_models(request: Request) -> ModelList:
    """List the served checkpoints."""
    return ModelList(data=[ModelObject(id=each.name) for each in state_of(request).models.all()])


@router.get("/models/{model}", dependencies=[needs("read")], responses=_errors(404))
async def show_model(model: ModelPath, request: Request) -> ModelObject:
    """Describe a served checkpoint."""
    return ModelObject(id=state_of(request).models.get(model).name)


def _stream(completion: ChatCompletion, body: ChatCompletionRequest) -> Response:
    """Respond with a completion as server-sent events."""
    options = body.stream_options
    chunks = to_chunks(completion, include_usage=bool(options and options.include_usage))
    events = [chunk.model_dump_json() for chunk in chunks]
    content = b"".join(format_sse_event(data_str=data) for data in [*events, "[DONE]"])
    return Response(content, media_type=EVENT_STREAM, headers=STREAM_HEADERS)
