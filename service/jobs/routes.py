"""The HTTP routes for many documents at a time."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from service.app_state import state_of
from service.bodies import describe_body, describe_problems, json_body, respond
from service.clients import (
    client_of,
    needs,
    prefers_async,
    quota_of,
    tenant_of,
)
from service.idempotency import Claim
from service.jobs.batch import note_problems
from service.jobs.schemas import (
    BatchRequest,
    BatchResponse,
    JobInfo,
    JobResults,
    JobsResponse,
)
from service.jobs.submission import IdempotencyKey, respond_once
from service.schemas import EXAMPLE_ID
from service.streams import run_while_connected

JobPath = Annotated[str, Path(description="A job's id.", examples=[EXAMPLE_ID])]
LARGEST_LIST = 100
"Most jobs in a part of a list."
RESULT_BYTES = 2**13
"About the bytes of a result."

router = APIRouter(tags=["jobs"], responses=describe_problems(400, 401, 403, 421, 431))


@router.post(
    "/write/batch",
    tags=["memories"],
    dependencies=[needs("write", operation="write", unless=prefers_async)],
    response_model=BatchResponse,
    responses={
        202: {"model": JobInfo, "description": "The job"},
        **describe_problems(408, 409, 413, 415, 422, 429, 503, 507),
    },
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

    With `Prefer: respond-async` the response is a job (202), see `GET /jobs/{id}`.
    """

    async def respond_now(claim: Claim | None) -> Response:
        results = await run_while_connected(request, _write(request, body, claim))
        size = sum(len(each.document) for each in body.documents)
        size = max(size, len(results.results) * RESULT_BYTES)
        return await respond(results, size=size, status=200)

    return await respond_once(request, body, body.documents, key, respond_now)


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


@router.get("/jobs", dependencies=[needs("read")], responses=describe_problems(422, 503))
async def list_jobs(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=LARGEST_LIST, description="Most jobs to return.")] = 20,
    cursor: Annotated[
        str | None, Query(description="`next_cursor` of the part before; the newest by default.")
    ] = None,
) -> JobsResponse:
    """List jobs, the newest first."""
    return await state_of(request).jobs.list_jobs(tenant_of(request), limit=limit, cursor=cursor)


@router.get("/jobs/{job_id}", dependencies=[needs("read")], responses=describe_problems(404, 503))
async def show_job(job_id: JobPath, request: Request) -> JobInfo:
    """Describe a job: documents that are written after the response."""
    return await state_of(request).jobs.show(tenant_of(request), job_id)


@router.get(
    "/jobs/{job_id}/results",
    dependencies=[needs("read")],
    response_model=JobResults,
    responses=describe_problems(404, 503),
)
async def job_results(job_id: JobPath, request: Request) -> Response:
    """Return the results of a job so far, in the order of its documents, as those of a batch."""
    found = await state_of(request).jobs.results(tenant_of(request), job_id)
    return await respond(found, size=len(found.results) * RESULT_BYTES, status=200)


@router.delete(
    "/jobs/{job_id}",
    dependencies=[needs("write")],
    status_code=204,
    responses=describe_problems(404, 503, 507),
)
async def cancel_job(job_id: JobPath, request: Request) -> None:
    """Cancel a job; delete the record of one that has ended.

    Documents that are written already stay, and so does the one that is being written.
    """
    await state_of(request).jobs.cancel(tenant_of(request), job_id)
