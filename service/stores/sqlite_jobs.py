"""Jobs in a SQLite file."""

import sqlite3
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from service.stores.heads import from_microseconds, to_microseconds
from service.stores.jobs import JobStore, JobTask, StoredJob, WholeJob
from service.stores.sqlite_connection import RunStatements, fetch_in_parts, now, transaction

JOB_TABLES = (
    """CREATE TABLE IF NOT EXISTS jobs (
        tenant TEXT NOT NULL,
        job_id TEXT NOT NULL,
        seed TEXT NOT NULL,
        documents INTEGER NOT NULL,
        written INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        created_at INTEGER NOT NULL,  -- times in microseconds since 1970
        begun INTEGER NOT NULL,
        cancelled INTEGER NOT NULL,
        ended_at INTEGER,
        expires_at INTEGER,
        webhook BLOB,
        deliveries INTEGER NOT NULL,
        position TEXT NOT NULL,  -- in the list of the tenant's jobs
        taken_at INTEGER NOT NULL,  -- time at which a document was taken last
        due_at INTEGER,  -- time at which the end is to be told, NULL for never
        PRIMARY KEY (tenant, job_id)
    )""",
    "CREATE INDEX IF NOT EXISTS jobs_position ON jobs (tenant, position)",
    "CREATE INDEX IF NOT EXISTS jobs_unended ON jobs (taken_at) WHERE ended_at IS NULL",
    "CREATE INDEX IF NOT EXISTS jobs_expires_at ON jobs (expires_at)",
    "CREATE INDEX IF NOT EXISTS jobs_due ON jobs (due_at) WHERE due_at IS NOT NULL",
    """CREATE TABLE IF NOT EXISTS job_documents (
        tenant TEXT NOT NULL,
        job_id TEXT NOT NULL,
        number INTEGER NOT NULL,
        document BLOB,  -- NULL once it is done
        result BLOB,
        leased_until INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        PRIMARY KEY (tenant, job_id, number)
    )""",
    """CREATE TRIGGER IF NOT EXISTS jobs_deleted AFTER DELETE ON jobs BEGIN
        DELETE FROM job_documents WHERE tenant = OLD.tenant AND job_id = OLD.job_id;
    END""",
)
COLUMNS = (
    "tenant, job_id, seed, documents, written, failed, created_at, begun, cancelled, ended_at,"
    " expires_at, webhook, deliveries"
)
OF_JOB = "tenant = ? AND job_id = ?"
OF_TASK = f"{OF_JOB} AND number = ?"
WAITS = "document IS NOT NULL AND leased_until <= ?"


class SqliteJobs(JobStore):
    """Jobs of a SQLite store.

    Args:
        read: Runs statements that change nothing.
        write: Runs the others.
    """

    def __init__(self, read: RunStatements, write: RunStatements) -> None:
        self._read = read
        self._write = write

    async def add(self, job: StoredJob, documents: Sequence[bytes], *, most: int) -> bool:
        """See `JobStore.add`."""

        def insert(connection: sqlite3.Connection) -> bool:
            with transaction(connection):
                if _select(connection, job.tenant, job.job_id):
                    return True
                (unended,) = connection.execute(
                    "SELECT COUNT(*) FROM jobs WHERE tenant = ? AND ended_at IS NULL", (job.tenant,)
                ).fetchone()
                if unended >= most:
                    return False
                none = [None] * len(documents)
                _insert(connection, WholeJob(job=job, documents=documents, results=none))
                return True

        return await self._write(insert)

    async def find(self, tenant: str, job_id: str) -> StoredJob | None:
        """See `JobStore.find`."""
        return await self._read(lambda connection: _select(connection, tenant, job_id))

    async def list_jobs(self, tenant: str, *, before: str, limit: int) -> list[StoredJob]:
        """See `JobStore.list_jobs`."""
        query = (
            f"SELECT {COLUMNS} FROM jobs WHERE tenant = ? AND position < ?"  # noqa: S608
            " AND (expires_at IS NULL OR expires_at > ?) ORDER BY position DESC LIMIT ?"
        )
        rows = await self._read(
            lambda connection: connection.execute(query, (tenant, before, now(), limit)).fetchall()
        )
        return list(map(_job, rows))

    async def find_results(self, job: StoredJob) -> list[bytes | None]:
        """See `JobStore.find_results`."""
        query = f"SELECT result FROM job_documents WHERE {OF_JOB} ORDER BY number"  # noqa: S608
        rows = await self._read(
            lambda connection: connection.execute(query, (job.tenant, job.job_id)).fetchall()
        )
        return [result for (result,) in rows]

    async def take(self, lease: timedelta) -> JobTask | None:
        """See `JobStore.take`."""
        if not await self._read(_find_waiting):
            return None

        def take(connection: sqlite3.Connection) -> JobTask | None:
            with transaction(connection):
                found = _find_waiting(connection)
                return None if found is None else _take(connection, *found, _after(lease))

        return await self._write(take)

    async def renew(self, task: JobTask, lease: timedelta) -> bool:
        """See `JobStore.renew`."""
        return await self._change_lease(task, _after(lease), task.attempts)

    async def give_back(self, task: JobTask) -> None:
        """See `JobStore.give_back`."""
        await self._change_lease(task, 0, 0)

    async def _change_lease(self, task: JobTask, until: int, attempts: int) -> bool:
        statement = (
            f"UPDATE job_documents SET leased_until = ?, attempts = ? WHERE {OF_TASK}"  # noqa: S608
            " AND attempts = ? AND document IS NOT NULL"
        )
        values = (until, attempts, task.tenant, task.job_id, task.number, task.attempts)
        return await self._write(
            lambda connection: connection.execute(statement, values).rowcount > 0
        )

    async def finish(
        self, task: JobTask, result: bytes, *, written: bool, keep: timedelta
    ) -> StoredJob | None:
        """See `JobStore.finish`."""

        def finish(connection: sqlite3.Connection) -> StoredJob | None:
            with transaction(connection):
                noted = connection.execute(
                    "UPDATE job_documents SET document = NULL, result = ?"  # noqa: S608
                    f" WHERE {OF_TASK} AND result IS NULL",
                    (result, task.tenant, task.job_id, task.number),
                )
                job = _select(connection, task.tenant, task.job_id)
                if job is None or not noted.rowcount:
                    return None
                counted = job.count(written=written, keep=keep)
                _update(connection, counted, ended=job.ended_at is None)
                return counted

        return await self._write(finish)

    async def cancel(self, tenant: str, job_id: str, *, keep: timedelta) -> bool:
        """See `JobStore.cancel`."""

        def cancel(connection: sqlite3.Connection) -> bool:
            with transaction(connection):
                job = _select(connection, tenant, job_id)
                if job is None or job.ended_at is not None:
                    return False
                connection.execute(
                    f"UPDATE job_documents SET document = NULL WHERE {OF_JOB}",  # noqa: S608
                    (tenant, job_id),
                )
                _update(connection, job.end(keep, cancelled=True), ended=True)
                return True

        return await self._write(cancel)

    async def remove(self, tenant: str, job_id: str) -> bool:
        """See `JobStore.remove`."""
        statement = f"DELETE FROM jobs WHERE {OF_JOB} AND ended_at IS NOT NULL"  # noqa: S608
        return await self._write(
            lambda connection: connection.execute(statement, (tenant, job_id)).rowcount > 0
        )

    async def remove_oldest(self, tenant: str, *, most: int) -> None:
        """See `JobStore.remove_oldest`."""
        statement = (
            "DELETE FROM jobs WHERE tenant = ? AND position IN (SELECT position FROM jobs"
            " WHERE tenant = ? AND ended_at IS NOT NULL ORDER BY position DESC LIMIT -1 OFFSET ?)"
        )
        await self._write(
            lambda connection: connection.execute(statement, (tenant, tenant, most)).rowcount
        )

    async def count(self) -> int:
        """See `JobStore.count`."""
        query = "SELECT COUNT(*) FROM jobs WHERE ended_at IS NULL"
        (number,) = await self._read(lambda connection: connection.execute(query).fetchone())
        return int(number)

    async def take_delivery(self, lease: timedelta) -> StoredJob | None:
        """See `JobStore.take_delivery`."""
        if not await self._read(_find_due):
            return None

        def take(connection: sqlite3.Connection) -> StoredJob | None:
            with transaction(connection):
                found = _find_due(connection)
                if found is None:
                    return None
                connection.execute(
                    "UPDATE jobs SET due_at = ?, deliveries = deliveries + 1"  # noqa: S608
                    f" WHERE {OF_JOB}",
                    (_after(lease), *found),
                )
                return _select(connection, *found)

        return await self._write(take)

    async def settle_delivery(self, job: StoredJob, *, again_at: datetime | None) -> None:
        """See `JobStore.settle_delivery`."""
        statement = f"UPDATE jobs SET due_at = ? WHERE {OF_JOB}"  # noqa: S608
        values = (_number(again_at), job.tenant, job.job_id)
        await self._write(lambda connection: connection.execute(statement, values).rowcount)

    async def scan(self) -> AsyncIterator[tuple[str, str]]:
        """See `JobStore.scan`."""
        async for name in fetch_in_parts(self._read, "jobs", "tenant", "job_id"):
            yield name

    async def fetch_whole(self, tenant: str, job_id: str) -> WholeJob | None:
        """See `JobStore.fetch_whole`."""

        def fetch(connection: sqlite3.Connection) -> WholeJob | None:
            with transaction(connection, "DEFERRED"):
                job = _select(connection, tenant, job_id)
                return None if job is None else _complete(connection, job)

        return await self._read(fetch)

    async def put_whole(self, whole: WholeJob) -> bool:
        """See `JobStore.put_whole`."""
        name = whole.job.tenant, whole.job.job_id

        def put(connection: sqlite3.Connection) -> bool:
            with transaction(connection):
                there = _select(connection, *name)
                if there is not None and there.progress >= whole.job.progress:
                    return False
                connection.execute(f"DELETE FROM jobs WHERE {OF_JOB}", name)  # noqa: S608
                _insert(connection, whole)
                return True

        return await self._write(put)


def remove_expired_jobs(connection: sqlite3.Connection) -> None:
    """Remove the jobs whose time has come, with their results."""
    connection.execute("DELETE FROM jobs WHERE expires_at <= ?", (now(),))


def _find_waiting(connection: sqlite3.Connection) -> tuple[str, str] | None:
    """Return the job with a waiting document from which one was taken the longest ago."""
    found: tuple[str, str] | None = connection.execute(
        "SELECT tenant, job_id FROM jobs WHERE ended_at IS NULL AND EXISTS ("  # noqa: S608
        "SELECT 1 FROM job_documents WHERE tenant = jobs.tenant AND job_id = jobs.job_id"
        f" AND {WAITS}) ORDER BY taken_at LIMIT 1",
        (now(),),
    ).fetchone()
    return found


def _take(connection: sqlite3.Connection, tenant: str, job_id: str, until: int) -> JobTask:
    """Take the first waiting document of a job."""
    number, document, attempts, seed = connection.execute(
        "SELECT number, document, attempts + 1,"  # noqa: S608
        f" (SELECT seed FROM jobs WHERE {OF_JOB}) FROM job_documents"
        f" WHERE {OF_JOB} AND {WAITS} ORDER BY number LIMIT 1",
        (tenant, job_id, tenant, job_id, now()),
    ).fetchone()
    connection.execute(
        f"UPDATE job_documents SET leased_until = ?, attempts = ? WHERE {OF_TASK}",  # noqa: S608
        (until, attempts, tenant, job_id, number),
    )
    connection.execute(
        f"UPDATE jobs SET taken_at = ?, begun = 1 WHERE {OF_JOB}",  # noqa: S608
        (now(), tenant, job_id),
    )
    return JobTask(
        tenant=tenant,
        job_id=job_id,
        number=number,
        seed=seed,
        document=document,
        attempts=attempts,
        receipt="",
    )


def _find_due(connection: sqlite3.Connection) -> tuple[str, str] | None:
    found: tuple[str, str] | None = connection.execute(
        "SELECT tenant, job_id FROM jobs WHERE due_at <= ? ORDER BY due_at LIMIT 1", (now(),)
    ).fetchone()
    return found


def _select(connection: sqlite3.Connection, tenant: str, job_id: str) -> StoredJob | None:
    row = connection.execute(
        f"SELECT {COLUMNS} FROM jobs WHERE {OF_JOB}"  # noqa: S608
        " AND (expires_at IS NULL OR expires_at > ?)",
        (tenant, job_id, now()),
    ).fetchone()
    return None if row is None else _job(row)


def _complete(connection: sqlite3.Connection, job: StoredJob) -> WholeJob:
    """Return a job with all that belongs to it."""
    name = job.tenant, job.job_id
    rows = connection.execute(
        f"SELECT document, result FROM job_documents WHERE {OF_JOB} ORDER BY number",  # noqa: S608
        name,
    ).fetchall()
    (due_at,) = connection.execute(f"SELECT due_at FROM jobs WHERE {OF_JOB}", name).fetchone()  # noqa: S608
    return WholeJob(
        job=job,
        documents=[document for document, _ in rows],
        results=[result for _, result in rows],
        due_at=None if due_at is None else from_microseconds(due_at),
    )


def _insert(connection: sqlite3.Connection, whole: WholeJob) -> None:
    """Store a job that is not there, with all that belongs to it."""
    job = whole.job
    connection.execute(
        f"INSERT INTO jobs VALUES ({', '.join('?' * 16)})",  # noqa: S608
        (*_row(job), job.position, 0, _number(whole.due_at)),
    )
    pairs = zip(whole.documents, whole.results, strict=True)
    connection.executemany(
        "INSERT INTO job_documents VALUES (?, ?, ?, ?, ?, 0, 0)",
        [(job.tenant, job.job_id, number, *pair) for number, pair in enumerate(pairs)],
    )


def _update(connection: sqlite3.Connection, job: StoredJob, *, ended: bool) -> None:
    """Store the progress of a job; one that has just ended is to be told."""
    due = now() if ended and job.ended_at is not None and job.webhook is not None else None
    connection.execute(
        "UPDATE jobs SET written = ?, failed = ?, cancelled = ?, ended_at = ?,"  # noqa: S608
        f" expires_at = ?, due_at = COALESCE(?, due_at) WHERE {OF_JOB}",
        (
            job.written,
            job.failed,
            job.cancelled,
            _number(job.ended_at),
            _number(job.expires_at),
            due,
            job.tenant,
            job.job_id,
        ),
    )


def _row(job: StoredJob) -> tuple[Any, ...]:
    """Return the values of COLUMNS."""
    return (
        *(job.tenant, job.job_id, job.seed, job.documents, job.written, job.failed),
        *(_number(job.created_at), job.begun, job.cancelled, _number(job.ended_at)),
        *(_number(job.expires_at), job.webhook, job.deliveries),
    )


def _job(row: Sequence[Any]) -> StoredJob:
    fields = dict(zip(COLUMNS.split(", "), row, strict=True))
    for name in ("created_at", "ended_at", "expires_at"):
        fields[name] = None if fields[name] is None else from_microseconds(fields[name])
    for name in ("begun", "cancelled"):
        fields[name] = bool(fields[name])
    return StoredJob(**fields)


def _number(moment: datetime | None) -> int | None:
    return None if moment is None else to_microseconds(moment)


def _after(lease: timedelta) -> int:
    return to_microseconds(datetime.now(UTC) + lease)
