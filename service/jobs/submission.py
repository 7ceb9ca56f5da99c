"""Respond to a request with a job, where its client asks for that (RFC 7240)."""

from collections.abc import Sequence
from functools import partial

from fastapi import Request, Response

from gradmem_core.errors import InputError
from service.app_state import state_of
from service.bodies import JSON
from service.clients import RESPOND_ASYNC, prefers_async, quota_of, tenant_of
from service.idempotency import Claim
from service.jobs.jobs import job_id_of
from service.jobs.schemas import JobInfo
from service.schemas import WriteRequest

JOB_NOTE = "job"
"Note on a request with an idempotency key that was answered with a job."


def wants_job(request: Request, claim: Claim | None) -> bool:
    """Return true where a request is to be answered with a job, or was before."""
    if claim is not None and claim.result is not None:
        return claim.result == JOB_NOTE
    return prefers_async(request)


def check_webhook(request: Request, url: str | None) -> None:
    """Refuse an address that may not be told of the end of a job.

    Raises:
        InputError: The request does not ask for a job.
        WebhookRefusedError: The operator does not allow its host.
    """
    if url is None:
        return
    if not prefers_async(request):
        raise InputError(f"webhook_url is for jobs: send it with Prefer: {RESPOND_ASYNC}")
    state_of(request).webhooks.check(url)


async def respond_with_job(
    request: Request,
    documents: Sequence[WriteRequest],
    claim: Claim | None,
    webhook_url: str | None,
) -> Response:
    """Accept documents, and respond with their job.

    Raises:
        TooManyJobsError: The tenant has too many jobs that have not ended.
        JobNotFoundError: The request was accepted before, and its job is gone.
        StoreUnavailableError: The store cannot be reached.
    """
    job = await _submit(request, documents, claim, webhook_url)
    headers = {"Location": f"/jobs/{job.job_id}", "Preference-Applied": RESPOND_ASYNC}
    return Response(job.model_dump_json(), 202, headers=headers, media_type=JSON)


async def _submit(
    request: Request,
    documents: Sequence[WriteRequest],
    claim: Claim | None,
    webhook_url: str | None,
) -> JobInfo:
    jobs, tenant = state_of(request).jobs, tenant_of(request)
    if claim is not None and claim.result is not None:
        return await jobs.show(tenant, job_id_of(claim))
    submit = partial(
        jobs.submit,
        tenant,
        documents,
        quota_of(request),
        claim=claim,
        webhook_url=webhook_url,
    )
    return await (submit() if claim is None else claim.run(submit, lambda _: JOB_NOTE))
