"""The HTTP routes that list and change memories."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import AwareDatetime

from gradmem_core.errors import InputError
from service.app_state import state_of
from service.bodies import describe_body, describe_problems, json_body
from service.clients import needs, tenant_of
from service.routes import MemoryPath
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

router = APIRouter(tags=["memories"], responses=describe_problems(400, 401, 403, 421, 431))


@router.get("/memories", dependencies=[needs("read")], responses=describe_problems(422, 503))
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
) -> MemoriesResponse:
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
    return await state_of(request).memories.list(
        tenant_of(request), wanted, limit=limit, cursor=cursor
    )


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
    return await state_of(request).memories.patch(tenant_of(request), memory_id, body)


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


def _parse_entry(text: str) -> tuple[str, str]:
    """Split `KEY=VALUE`.

    Raises:
        InputError: There is no equals sign.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError("metadata must be KEY=VALUE")
    return key, value
