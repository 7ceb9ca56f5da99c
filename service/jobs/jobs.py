"""Jobs: documents that are accepted now and written later.

Documents and results are sealed before the store gets them, each for its place in its job. The ids
of what is written are derived from the seed of the job, so that a document is written only once,
whoever writes it.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, TypeAdapter

from gradmem_core.errors import StoreUnavailableError
from service import leases
from service.audit_log import audit
from service.encryption import Keyring
from service.idempotency import Claim, derive_id
from service.jobs.schemas import (
    DocumentResult,
    JobInfo,
    JobResults,
    JobsResponse,
    JobStatus,
    WrittenDocument,
)
from service.refusals import JobNotFoundError, TooManyJobsError
from service.schemas import WriteRequest
from service.stores import MEMORY_ID, NEWEST, JobTask, Quota, Store, StoredJob, check_cursor


class AcceptedDocument(BaseModel):
    """A document as it waits to be written."""

    request: WriteRequest
    quota: Quota
    "Most that its tenant might have in the store when it was accepted."


RESULT: TypeAdapter[DocumentResult] = TypeAdapter(DocumentResult)


class Jobs:
    """The jobs in the store.

    Args:
        store: The store.
        keyring: The keys that encrypt documents and results.
        most: Most jobs of a tenant that have not ended.
        most_ended: Most that have, beyond which the oldest are forgotten.
        keep: Time for which a job is kept after its end.
    """

    def __init__(
        self, store: Store, keyring: Keyring, *, most: int, most_ended: int, keep: timedelta
    ) -> None:
        self._store = store.jobs
        self._keyring = keyring
        self._most = most
        self._most_ended = most_ended
        self._keep = keep
        self.on_added: Callable[[], None] = lambda: None
        "Called when a document waits to be written."

    async def submit(
        self,
        tenant: str,
        documents: Sequence[WriteRequest],
        quota: Quota,
        *,
        claim: Claim | None = None,
        webhook_url: str | None = None,
    ) -> JobInfo:
        """Accept documents; those of a claim are accepted only once.

        Args:
            tenant: The tenant whose memories they become.
            documents: The documents with their options; at least one.
            quota: Most that the tenant may have in the store.
            claim: Claim to the request, where it may be sent again.
            webhook_url: Address to tell of the end.

        Raises:
            TooManyJobsError: The tenant has too many jobs that have not ended.
            StoreUnavailableError: The store cannot be reached.
        """
        job_id = secrets.token_hex(16) if claim is None else job_id_of(claim)
        webhook = None
        if webhook_url is not None:
            webhook = self._keyring.encrypt(webhook_url.encode(), _owner(tenant, job_id, "webhook"))
        job = StoredJob(
            tenant=tenant,
            job_id=job_id,
            webhook=webhook,
            seed=secrets.token_hex(16) if claim is None else claim.seed,
            documents=len(documents),
            created_at=datetime.now(UTC),
        )
        bodies = await asyncio.to_thread(self._seal_documents, job, documents, quota)
        if not await self._store.add(job, bodies, most=self._most):
            raise TooManyJobsError(self._most)
        self.on_added()
        with suppress(StoreUnavailableError):  # the next job removes more
            await self._store.remove_oldest(tenant, most=self._most_ended)
        if claim is not None:  # it may have been there
            job = await self._store.find(tenant, job_id) or job
        return describe_job(job)

    async def show(self, tenant: str, job_id: str) -> JobInfo:
        """Describe a job.

        Raises:
            JobNotFoundError: No job of the tenant has that id, or it has expired.
            StoreUnavailableError: The store cannot be reached.
        """
        return describe_job(await self._find(tenant, job_id))

    async def list_jobs(self, tenant: str, *, limit: int, cursor: str | None) -> JobsResponse:
        """List jobs, the newest first.

        Raises:
            InputError: The cursor is not one of a list.
            StoreUnavailableError: The store cannot be reached.
        """
        check_cursor(cursor)
        found = await self._store.list_jobs(tenant, before=cursor or NEWEST, limit=limit + 1)
        shown = found[:limit]
        return JobsResponse(
            jobs=[describe_job(job) for job in shown],
            next_cursor=shown[-1].position if len(found) > limit else None,
        )

    async def results(self, tenant: str, job_id: str) -> JobResults:
        """Return the results so far.

        Raises:
            JobNotFoundError: No job of the tenant has that id, or it has expired.
            BlobError: A result is damaged.
            EncryptionKeyError: The key that encrypted a result is missing.
            StoreUnavailableError: The store cannot be reached.
        """
        job = await self._find(tenant, job_id)
        sealed = await self._store.find_results(job)
        return await asyncio.to_thread(self._open_results, job, sealed)

    async def cancel(self, tenant: str, job_id: str) -> None:
        """Cancel a job; remove one that has ended.

        One that ends at this moment stays: its client asked to cancel it, and has yet to see the
        results.

        Raises:
            JobNotFoundError: No job of the tenant has that id, or it has expired.
            StoreUnavailableError: The store cannot be reached.
        """
        job = await self._find(tenant, job_id)
        if job.ended_at is not None:
            if await self._store.remove(tenant, job_id):
                audit("job.delete", job_id=job_id)
        elif await self._store.cancel(tenant, job_id, keep=self._keep):
            audit("job.cancel", job_id=job_id, documents=job.documents)
            self.on_added()  # its end may have to be told

    async def count(self) -> int:
        """Return how many jobs have not ended."""
        return await self._store.count()

    async def take(self) -> JobTask | None:
        """Take a document to write; None where none waits."""
        return await self._store.take(_lease())

    async def renew(self, task: JobTask) -> bool:
        """Extend the lease of a document; False where it has been lost."""
        return await self._store.renew(task, _lease())

    async def give_back(self, task: JobTask) -> None:
        """Let another service write a document."""
        await self._store.give_back(task)

    async def open(self, task: JobTask) -> AcceptedDocument:
        """Return the document of a task.

        Raises:
            BlobError: It was changed.
            EncryptionKeyError: The key that encrypted it is missing.
        """
        return await asyncio.to_thread(self._open_document, task)

    async def finish(self, task: JobTask, result: DocumentResult) -> None:
        """Note the result of a document; its text is forgotten by that."""
        owner = _owner(task.tenant, task.job_id, "result", task.number)
        written = isinstance(result, WrittenDocument)
        sealed = await asyncio.to_thread(self._seal_result, result, owner)
        await self._store.finish(task, sealed, written=written, keep=self._keep)

    async def take_delivery(self, lease: timedelta) -> StoredJob | None:
        """Return a job whose end is to be told now; None where there is none.

        Unless it is settled, it is due again after the lease.
        """
        return await self._store.take_delivery(lease)

    def open_webhook(self, job: StoredJob) -> str:
        """Return the address to tell of the end of a job that has one.

        Raises:
            BlobError: It was changed.
            EncryptionKeyError: The key that encrypted it is missing.
        """
        assert job.webhook is not None
        return self._keyring.decrypt(
            job.webhook, _owner(job.tenant, job.job_id, "webhook")
        ).decode()

    async def settle_delivery(self, job: StoredJob, *, again_at: datetime | None) -> None:
        """Note when the end of a job is to be told again; None for never."""
        await self._store.settle_delivery(job, again_at=again_at)

    async def _find(self, tenant: str, job_id: str) -> StoredJob:
        job = await self._store.find(tenant, job_id) if MEMORY_ID.fullmatch(job_id) else None
        if job is None:
            raise JobNotFoundError
        return job

    def _seal_documents(
        self, job: StoredJob, documents: Sequence[WriteRequest], quota: Quota
    ) -> list[bytes]:
        return [
            self._keyring.encrypt(
                AcceptedDocument(request=document, quota=quota).model_dump_json().encode(),
                _owner(job.tenant, job.job_id, "document", number),
            )
            for number, document in enumerate(documents)
        ]

    def _open_document(self, task: JobTask) -> AcceptedDocument:
        owner = _owner(task.tenant, task.job_id, "document", task.number)
        return AcceptedDocument.model_validate_json(self._keyring.decrypt(task.document, owner))

    def _seal_result(self, result: DocumentResult, owner: str) -> bytes:
        return self._keyring.encrypt(result.model_dump_json().encode(), owner)

    def _open_results(self, job: StoredJob, sealed: Sequence[bytes | None]) -> JobResults:
        results = [
            None
            if each is None
            else RESULT.validate_json(
                self._keyring.decrypt(each, _owner(job.tenant, job.job_id, "result", number))
            )
            for number, each in enumerate(sealed)
        ]
        return JobResults(results=results)


def job_id_of(claim: Claim) -> str:
    """Return the id of the job of a request that may be sent again."""
    return claim.derive_id("job")


def write_id_of(task: JobTask) -> str:
    """Return the id under which a document is written, once for ever."""
    return derive_id(task.seed, str(task.number))


def describe_job(job: StoredJob) -> JobInfo:
    """Describe a job to its client."""
    return JobInfo(
        job_id=job.job_id,
        status=_status(job),
        documents=job.documents,
        written=job.written,
        failed=job.failed,
        created_at=job.created_at,
        ended_at=job.ended_at,
        expires_at=job.expires_at,
    )


def _status(job: StoredJob) -> JobStatus:
    if job.cancelled:
        return "cancelled"
    if job.ended_at is not None:
        return "done"
    return "running" if job.begun else "queued"


def _owner(tenant: str, job_id: str, kind: str, number: int = 0) -> str:
    """Return what a document, a result or an address belongs to."""
    return f"{tenant}:job:{job_id}:{kind}:{number}"


def _lease() -> timedelta:
    return timedelta(seconds=leases.LEASE_SECONDS)
