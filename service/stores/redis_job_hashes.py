"""Jobs as hashes of Redis, and the keys of what belongs to them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from service.stores.heads import from_microseconds, to_microseconds
from service.stores.jobs import StoredJob

FIELDS = (
    *("seed", "documents", "written", "failed", "created_at", "begun", "cancelled"),
    *("ended_at", "expires_at", "webhook", "deliveries"),
)
"Fields of a job's hash, besides its documents, its results and `queued`."


class JobKeys:
    """The keys of jobs."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.job_prefix = f"{prefix}job:"
        "Beginning of the keys of jobs."
        self.queue = f"{prefix}queue"
        "Stream of documents: `tenant`, `job_id` and `number`."
        self.unended = f"{prefix}unended"
        "Set of the jobs that have not ended."
        self.deliveries = f"{prefix}deliveries"
        "Sorted set of the jobs whose end is to be told, by the time at which it is due."

    def job(self, tenant: str, job_id: str) -> str:
        """Return the key of the hash of a job."""
        return self.job_prefix + job_member(tenant, job_id)

    def listed(self, tenant: str) -> str:
        """Return the key of the sorted set of the positions of a tenant's jobs."""
        return f"{self._prefix}list:{tenant}"

    def waiting(self, tenant: str) -> str:
        """Return the key of the set of a tenant's jobs that have not ended."""
        return f"{self._prefix}unended:{tenant}"


def job_member(tenant: str, job_id: str) -> str:
    """Return the member of a set that stands for a job."""
    return f"{tenant}:{job_id}"


def entry_of(tenant: str, job_id: str, number: int) -> Any:  # noqa: ANN401
    """Return the entry of the stream that stands for a document."""
    return {"tenant": tenant, "job_id": job_id, "number": number}


def document_field(number: int) -> str:
    """Return the field of a document that is not done."""
    return f"document:{number}"


def result_field(number: int) -> str:
    """Return the field of the result of a document."""
    return f"result:{number}"


def pack_job(job: StoredJob) -> dict[str, Any]:
    """Return the fields of a job as its hash holds them, without those that are None."""
    fields = {name: getattr(job, name) for name in FIELDS}
    for name in ("created_at", "ended_at", "expires_at"):
        fields[name] = fields[name] and to_microseconds(fields[name])
    for name in ("begun", "cancelled"):
        fields[name] = int(fields[name])
    return {name: value for name, value in fields.items() if value is not None}


def unpack_job(tenant: str, job_id: str, values: Sequence[bytes | None]) -> StoredJob | None:
    """Return the job in the values of FIELDS; None where there is none."""
    fields = dict(zip(FIELDS, values, strict=True))
    created_at = _moment(fields["created_at"])
    if fields["seed"] is None or created_at is None:
        return None
    return StoredJob(
        tenant=tenant,
        job_id=job_id,
        seed=fields["seed"].decode(),
        **{name: int(fields[name] or 0) for name in ("documents", "written", "failed")},
        created_at=created_at,
        begun=fields["begun"] == b"1",
        cancelled=fields["cancelled"] == b"1",
        ended_at=_moment(fields["ended_at"]),
        expires_at=_moment(fields["expires_at"]),
        webhook=fields["webhook"],
        deliveries=int(fields["deliveries"] or 0),
    )


def _moment(value: bytes | None) -> datetime | None:
    return None if value is None else from_microseconds(int(value))
