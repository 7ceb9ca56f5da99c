"""Jobs in a store: documents that are written after the response, by whichever service has time.

A document is taken with a lease; where that runs out, because its service died, another takes it.
Finishing one drops its bytes and keeps its result, in one operation, and has no effect the second
time. What is stored of a job is sealed before it comes here, apart from numbers and times.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from service.stores.heads import position_of


@dataclass(frozen=True, kw_only=True)
class StoredJob:
    """A job without its documents and results."""

    tenant: str
    job_id: str
    seed: str = field(repr=False)
    "Seed of the ids under which its documents are written."
    documents: int
    "Number of its documents."
    written: int = 0
    "Documents that were written."
    failed: int = 0
    "Documents that were refused, or that failed."
    created_at: datetime
    begun: bool = False
    "True once a document has been taken."
    cancelled: bool = False
    ended_at: datetime | None = None
    "Time at which the last document was done, or at which it was cancelled."
    expires_at: datetime | None = None
    "Time at which it is forgotten; none before it has ended."
    webhook: bytes | None = field(default=None, repr=False)
    "Address to tell of its end, sealed."
    deliveries: int = 0
    "Attempts to tell it."

    @property
    def position(self) -> str:
        """Its place in the list of jobs."""
        return position_of(self.created_at, self.job_id)

    @property
    def progress(self) -> tuple[bool, int, int]:
        """Its progress, which never goes back, to compare two copies of it."""
        return self.ended_at is not None, self.written + self.failed, self.deliveries

    def count(self, *, written: bool, keep: timedelta) -> "StoredJob":
        """Return the job after one more document; it may have ended by that."""
        counted = replace(
            self,
            written=self.written + written,
            failed=self.failed + (not written),
        )
        if counted.ended_at is None and counted.written + counted.failed == self.documents:
            return counted.end(keep)
        return counted

    def end(self, keep: timedelta, *, cancelled: bool = False) -> "StoredJob":
        """Return the job as ended now."""
        now = datetime.now(UTC)
        return replace(self, ended_at=now, expires_at=now + keep, cancelled=cancelled)


@dataclass(frozen=True, kw_only=True)
class WholeJob:
    """A job with all that a store keeps of it, apart from leases."""

    job: StoredJob
    documents: Sequence[bytes | None] = field(repr=False)
    "Its documents, sealed; None for those that are done."
    results: Sequence[bytes | None] = field(repr=False)
    "Their results, sealed; None for those that have none."
    due_at: datetime | None = None
    "Time at which its end is to be told; None for never."


@dataclass(frozen=True, kw_only=True)
class JobTask:
    """A document that was taken."""

    tenant: str
    job_id: str
    number: int
    "Place of the document in its job, from 0."
    seed: str = field(repr=False)
    "Seed of the job."
    document: bytes = field(repr=False)
    "The document, sealed."
    attempts: int
    "Times that it has been taken since it was given back."
    receipt: str
    "The store's own name for it."


class JobStore(ABC):
    """Jobs of all tenants. Any operation may raise StoreUnavailableError, and may be repeated."""

    @abstractmethod
    async def add(self, job: StoredJob, documents: Sequence[bytes], *, most: int) -> bool:
        """Store a job, unless it is there, and queue its documents.

        Args:
            job: The job.
            documents: Its documents, sealed.
            most: Most jobs of its tenant that have not ended.

        Returns:
            False, with nothing stored, where the tenant has that many.
        """

    @abstractmethod
    async def find(self, tenant: str, job_id: str) -> StoredJob | None:
        """Return a job of a tenant; None where there is none."""

    @abstractmethod
    async def list_jobs(self, tenant: str, *, before: str, limit: int) -> list[StoredJob]:
        """Return jobs of a tenant, the newest first, from a position on."""

    @abstractmethod
    async def find_results(self, job: StoredJob) -> list[bytes | None]:
        """Return the result of each document, sealed; None for those that have none yet."""

    @abstractmethod
    async def take(self, lease: timedelta) -> JobTask | None:
        """Take a document, of each job in turn, for a time; None where none waits."""

    @abstractmethod
    async def renew(self, task: JobTask, lease: timedelta) -> bool:
        """Extend a lease to this time from now; False where it has been lost."""

    @abstractmethod
    async def give_back(self, task: JobTask) -> None:
        """End a lease: another service may take the document at once."""

    @abstractmethod
    async def finish(
        self, task: JobTask, result: bytes, *, written: bool, keep: timedelta
    ) -> StoredJob | None:
        """Store the result of a document and drop its bytes, unless that has been done.

        Args:
            task: The document.
            result: Its result, sealed.
            written: True if it was written.
            keep: Time for which the job is kept after its end.

        Returns:
            The job after that; None where it is gone, or this was done before.
        """

    @abstractmethod
    async def cancel(self, tenant: str, job_id: str, *, keep: timedelta) -> bool:
        """End a job and drop its documents; False where it has ended, or is not there."""

    @abstractmethod
    async def remove(self, tenant: str, job_id: str) -> bool:
        """Remove a job that has ended; False where it has not, or is not there."""

    @abstractmethod
    async def remove_oldest(self, tenant: str, *, most: int) -> None:
        """Remove the oldest of a tenant's jobs that have ended, beyond that many, or nearly."""

    @abstractmethod
    async def count(self) -> int:
        """Return how many jobs have not ended."""

    @abstractmethod
    async def take_delivery(self, lease: timedelta) -> StoredJob | None:
        """Return a job whose end is to be told now, counting the attempt; None where there is none.

        Unless it is settled, it is due again after the lease.
        """

    @abstractmethod
    async def settle_delivery(self, job: StoredJob, *, again_at: datetime | None) -> None:
        """Note when the end of a job is to be told again; None for never."""

    @abstractmethod
    def scan(self) -> AsyncIterator[tuple[str, str]]:
        """Yield tenant and id of each job at least once, in any order."""

    @abstractmethod
    async def fetch_whole(self, tenant: str, job_id: str) -> WholeJob | None:
        """Return a job with all that belongs to it; None where there is none."""

    @abstractmethod
    async def put_whole(self, whole: WholeJob) -> bool:
        """Store a job of another store; its documents wait, whoever had leased them there.

        Returns:
            False, with nothing stored, where the job is there and has come as far.
        """
