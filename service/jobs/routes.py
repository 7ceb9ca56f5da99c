"""The HTTP routes for many documents at a time."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from service.app_state import state_of
from service.bodies import describe_body, describe_problems, json_body, respond
from service.clients import client_of, needs, quota_of, refuse_overload, tenant_of
from service.idempotency import Claim
from service.jobs.batch import note_problems
from service.jobs.schemas import BatchRequest, BatchResponse
from service.routes import REPLAYED, IdempotencyKey
from service.streams import run_while_connected

router = APIRouter(tags=["memories"], responses=describe_problems(400, 401, 403, 421, 431))


@router.post(
    "/write/batch",
    dependencies=[needs("write"), Depends(refuse_overload("write"))],
    response_model=BatchResponse,
    responses=describe_problems(408, 409, 413, 415, 422, 429, 503, 507),
    openapi_extra=describe_body(BatchRequest),
)
async def write_batch(
    body: Annotated[BatchRequest, json_body(BatchRequest)],
    request: Request,
    key: IdempotencyKey = None,
) -> Response:
    """Write many documents, each into a memory of its own.

    The results are in the order of the documents: a memory, or the problem of a document that was
    not written. With an `Idempotency-Key` the request can be sent again, see `POST /write`; then
    documents are tried again whose problem was none of their own, such as 503.
    """
    size = sum(len(each.document) for each in body.documents)
    claim = None
    if key is not None:
        claim = await state_of(request).idempotency.claim(tenant_of(request), key, body, size=size)
    response = await respond(
        await run_while_connected(request, _write(request, body, claim)), size=size, status=200
    )
    if claim is not None and claim.result is not None:
        response.headers[REPLAYED] = "true"
    return response


async def _write(request: Request, body: BatchRequest, claim: Claim | None) -> BatchResponse:
    """Write the documents, under their claim where they have one; find those of an earlier time."""
    batches, tenant = state_of(request).batches, tenant_of(request)
    if claim is not None and claim.result is not None:
        return await batches.find(body.documents, claim.result, tenant=tenant, claim=claim)
    write = partial(
        batches.write,
        body.documents,
        tenant=tenant,
        quota=quota_of(request),
        share=client_of(request),
        claim=claim,
    )
    return await (write() if claim is None else claim.run(write, note_problems))
