"""The HTTP routes that list and change memories."""

import base64
import hashlib
import re
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import AwareDatetime

from gradmem_core.errors import InputError
from service.app_state import state_of
from service.bodies import describe_body, describe_problems, json_body, read_bytes, respond
from service.clients import needs, quota_of, tenant_of
from service.offload import call_by_size
from service.routes import SAFETENSORS, MemoryPath
from service.schemas import (
    MAX_LIST,
    MAX_METADATA,
    DeleteRequest,
    DeleteResponse,
    MemoriesResponse,
    MemoryInfo,
    MemoryPatch,
)
from service.stores import MemoryFilter

SUMMARY_BYTES = 2**15
"About the bytes of a memory in a list at most."

router = APIRouter(tags=["memories"], responses=describe_problems(400, 401, 403, 421, 431))


@router.get(
    "/memories",
    dependencies=[needs("read")],
    response_model=MemoriesResponse,
    responses=describe_problems(422, 503),
)
async def list_memories(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=MAX_LIST, description="Most memories to return.")] = 100,
    cursor: Annotated[
        str | None, Query(description="`next_cursor` of the part before; the newest by default.")
    ] = None,
    name: Annotated[str | None, Query(description="Only memories of this name.")] = None,
    model: Annotated[str | None, Query(description="Only memories of this checkpoint.")] = None,
    metadata: Annotated[
        list[str] | None,
        Query(
            max_length=MAX_METADATA,
            description="`KEY=VALUE`: only memories with this entry; may be repeated.",
        ),
    ] = None,
    expires_before: Annotated[
        AwareDatetime | None, Query(description="Only memories that expire before this time.")
    ] = None,
) -> Response:
    """List memories, the newest first.

    The parts together hold every memory that is there all the while exactly once, whatever is
    written and deleted meanwhile.
    """
    wanted = MemoryFilter(
        name=name,
        model=model,
        metadata=dict(map(_parse_entry, metadata or [])),
        expires_before=expires_before,
    )
    part = await state_of(request).memories.list(
        tenant_of(request), wanted, limit=limit, cursor=cursor
    )
    return await respond(part, size=len(part.memories) * SUMMARY_BYTES, status=200)


@router.patch(
    "/memories/{memory_id}",
    dependencies=[needs("write")],
    responses=describe_problems(404, 408, 409, 413, 415, 422, 503, 507),
    openapi_extra=describe_body(MemoryPatch),
)
async def patch(
    memory_id: MemoryPath,
    body: Annotated[MemoryPatch, json_body(MemoryPatch)],
    request: Request,
) -> MemoryInfo:
    """Change name, metadata and expiry of a memory; what the body leaves out stays."""
    return await state_of(request).memories.patch(
        tenant_of(request), memory_id, body, quota_of(request)
    )


@router.post(
    "/memories/delete",
    dependencies=[needs("write")],
    responses=describe_problems(408, 413, 415, 422, 503, 507),
    openapi_extra=describe_body(DeleteRequest),
)
async def delete_many(
    body: Annotated[DeleteRequest, json_body(DeleteRequest)], request: Request
) -> DeleteResponse:
    """Delete memories for good, by their ids or by a filter.

    A filter deletes up to 1000 at a time: repeat the request with `next_cursor` until that is null.
    """
    return await state_of(request).memories.delete_many(tenant_of(request), body)


@router.get(
    "/memories/{memory_id}/blob",
    dependencies=[needs("read")],
    response_class=Response,
    responses={
        200: {"content": {SAFETENSORS: {}}, "description": "The blob"},
        304: {"description": "The blob has the ETag of If-None-Match"},
        **describe_problems(404, 422, 503),
    },
)
async def blob(memory_id: MemoryPath, request: Request) -> Response:
    """Export a memory as the blob that the store keeps, which `PUT` takes again.

    It is as secret as the document. `ETag` and `Content-Digest` (RFC 9530) are its SHA-256.
    """
    content = await state_of(request).transfer.export_blob(tenant_of(request), memory_id)
    digest = await call_by_size(len(content), _digest, content)
    headers = {"ETag": f'"{digest.hex()}"', "Content-Digest": _content_digest(digest)}
    wanted = request.headers.get("if-none-match", "")
    if wanted.strip() == "*" or headers["ETag"] in re.findall(r'"[^"]*"', wanted):
        return Response(status_code=304, headers={"ETag": headers["ETag"]})
    return Response(content, headers=headers, media_type=SAFETENSORS)


@router.put(
    "/memories/{memory_id}/blob",
    dependencies=[needs("write")],
    status_code=201,
    response_model=MemoryInfo,
    responses={
        200: {"model": MemoryInfo, "description": "The memory was there already"},
        **describe_problems(408, 409, 413, 415, 422, 503, 507),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {SAFETENSORS: {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def import_blob(memory_id: MemoryPath, request: Request) -> Response:
    """Store the blob of a memory under an id. It overwrites nothing; repeating it is safe.

    The checkpoint that wrote it must be served, and the tenant must be that of the key. A
    `Content-Digest` with `sha-256` is checked. Name, metadata and expiry are not in a blob: `PATCH`
    sets them.
    """
    content = await read_bytes(request)
    expected = request.headers.get("content-digest", "")
    if "sha-256=" in expected:
        digest = await call_by_size(len(content), _digest, content)
        if _content_digest(digest) not in map(str.strip, expected.split(",")):
            raise InputError("the body does not have its Content-Digest; send it again")
    memory, created = await state_of(request).transfer.import_blob(
        tenant_of(request), memory_id, content, quota_of(request)
    )
    return await respond(memory, size=len(content), status=201 if created else 200)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _content_digest(digest: bytes) -> str:
    """Return the header of RFC 9530 of a SHA-256."""
    return f"sha-256=:{base64.b64encode(digest).decode()}:"


def _parse_entry(text: str) -> tuple[str, str]:
    """Split `KEY=VALUE`.

    Raises:
        InputError: There is no equals sign.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError("metadata must be KEY=VALUE")
    return key, value
