"""Respond to requests to write: once for each key, and with a job where clients ask for that."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Annotated

from fastapi import Header, Request, Response

from gradmem_core.errors import InputError
from service.app_state import state_of
from service.bodies import JSON
from service.clients import RESPOND_ASYNC, prefers_async, quota_of, tenant_of
from service.idempotency import Claim
from service.jobs.jobs import job_id_of
from service.jobs.schemas import JobInfo, WebhookRequest
from service.schemas import WriteRequest

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="1 to 255 visible ASCII characters that name this request, such as a UUID.",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]*$",
    ),
]
REPLAYED = "Idempotency-Replayed"
"Header of a response to a request that was done before."
JOB_NOTE = "job"
"Note on a request with an idempotency key that was answered with a job."


async def respond_once(
    request: Request,
    body: WebhookRequest,
    documents: Sequence[WriteRequest],
    key: str | None,
    respond_now: Callable[[Claim | None], Awaitable[Response]],
) -> Response:
    """Respond to a request to write: with a job where its client prefers that (RFC 7240).

    Args:
        request: The request.
        body: Its body.
        documents: The documents in it.
        key: Its idempotency key; None where it has none.
        respond_now: Responds without a job, under the claim to the key.

    Raises:
        InputError: It names a webhook, and does not ask for a job.
        WebhookRefusedError: The operator does not allow the host of its webhook.
        KeyReusedError: Its key came with another body before.
        WriteInFlightError: A request with its key is being worked on.
        TooManyKeysError: Its key is new, and the tenant has too many.
        TooManyJobsError: The tenant has too many jobs that have not ended.
        JobNotFoundError: The request was accepted before, and its job is gone.
        StoreUnavailableError: The store cannot be reached.
    """
    _check_webhook(request, body.webhook_url)
    claim = None
    if key is not None:
        claim = await state_of(request).idempotency.claim(
            tenant_of(request), key, body, size=sum(len(each.document) for each in documents)
        )
    if _wants_job(request, claim):
        response = await _respond_with_job(request, documents, claim, body.webhook_url)
    else:
        response = await respond_now(claim)
    if claim is not None and claim.result is not None:
        response.headers[REPLAYED] = "true"
    return response


def _wants_job(request: Request, claim: Claim | None) -> bool:
    """Return true where a request is to be answered with a job, or was before."""
    if claim is not None and claim.result is not None:
        return claim.result == JOB_NOTE
    return prefers_async(request)


def _check_webhook(request: Request, url: str | None) -> None:
    """Refuse an address that may not be told of the end of a job."""
    if url is None:
        return
    if not prefers_async(request):
        raise InputError(f"webhook_url is for jobs: send it with Prefer: {RESPOND_ASYNC}")
    state_of(request).webhooks.check(url)


async def _respond_with_job(
    request: Request,
    documents: Sequence[WriteRequest],
    claim: Claim | None,
    webhook_url: str | None,
) -> Response:
    """Accept documents, and respond with their job."""
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
