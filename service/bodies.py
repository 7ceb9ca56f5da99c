"""Read and write JSON; whatever grows with a body is done off the event loop.

FastAPI would parse and validate on the event loop: a megabyte that is not what it should be would
stall every other client for seconds.
"""

import asyncio
from typing import Any, TypeVar

from fastapi import Request, Response, params
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, JsonValue, ValidationError
from starlette.requests import ClientDisconnect

from service.app_state import state_of
from service.errors import MEDIA_TYPE
from service.offload import call_by_size
from service.refusals import BodyTimeoutError, ContentEncodingError, MediaTypeError
from service.schemas import Problem
from service.streams import ClientGoneError

T = TypeVar("T", bound=BaseModel)

JSON = "application/json"


def json_body(model: type[BaseModel]) -> params.Depends:
    """Return the dependency that reads a body of this model: `Annotated[T, json_body(T)]`."""

    async def read(request: Request) -> BaseModel:
        return await _read_body(request, model)

    return params.Depends(read)


def describe_body(model: type[BaseModel]) -> dict[str, Any]:
    """Return what OpenAPI says of an operation with a body of this model."""
    document = model.model_json_schema()
    schema = _inline(document, document.pop("$defs", {}))
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema}}}}


def describe_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI entries of the problems that a route responds with."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {status: {"description": "Problem", "content": content} for status in statuses}


async def respond(result: BaseModel, *, size: int, status: int) -> Response:
    """Respond with a result that grows with the `size` of its request, in bytes."""
    content = await call_by_size(size, result.model_dump_json)
    return Response(content, status, media_type=JSON)


def _inline(schema: JsonValue, definitions: dict[str, JsonValue]) -> JsonValue:
    """Put definitions in the place of references, which lead nowhere in an OpenAPI document."""
    if isinstance(schema, list):
        return [_inline(entry, definitions) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    reference = schema.get("$ref")
    if isinstance(reference, str):
        return _inline(definitions[reference.rpartition("/")[2]], definitions)
    return {name: _inline(value, definitions) for name, value in schema.items()}


async def _read_body(request: Request, model: type[T]) -> T:
    _check_headers(request)
    content = await _receive(request)
    return await call_by_size(len(content), parse_body, model, content)


async def read_bytes(request: Request) -> bytes:
    """Return a body of any media type, as it is."""
    _check_encoding(request)
    return await _receive(request)


async def _receive(request: Request) -> bytes:
    seconds = state_of(request).settings.body_timeout_seconds
    try:
        async with asyncio.timeout(seconds):
            return await request.body()
    except TimeoutError as error:
        raise BodyTimeoutError(seconds) from error
    except ClientDisconnect as error:
        raise ClientGoneError from error


def _check_headers(request: Request) -> None:
    """Refuse a body that is compressed, or not JSON, before it is read."""
    _check_encoding(request)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != JSON and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise MediaTypeError


def _check_encoding(request: Request) -> None:
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ContentEncodingError


def parse_body(model: type[T], content: bytes) -> T:
    """Return the model that a body holds.

    Raises:
        RequestValidationError: It is not JSON, or not of this model.
    """
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        entries = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError(
            [{**entry, "loc": ("body", *entry["loc"])} for entry in entries]
        ) from None
