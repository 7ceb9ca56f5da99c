"""Jobs in Redis with all that belongs to them, as they are added and copied."""

from typing import Any

from service.stores.heads import from_microseconds
from service.stores.jobs import WholeJob
from service.stores.redis_client import Pipeline
from service.stores.redis_job_hashes import (
    FIELDS,
    JobKeys,
    document_field,
    entry_of,
    job_member,
    pack_job,
    result_field,
    unpack_job,
)
from service.stores.redis_records import RunCommands, to_milliseconds

QUEUED = 4
"Most documents of a new job in the stream."


class RedisWholeJobs:
    """Whole jobs of a Redis store.

    Args:
        retry: Sends commands that may be repeated, and repeats them.
        keys: The keys of the jobs.
    """

    def __init__(self, retry: RunCommands, keys: JobKeys) -> None:
        self._retry = retry
        self._keys = keys

    async def fetch(self, tenant: str, job_id: str) -> WholeJob | None:
        """See `JobStore.fetch_whole`."""
        key, member = self._keys.job(tenant, job_id), job_member(tenant, job_id)
        known = await self._read(key, ["documents"])
        numbers = range(int(known[0] or 0))
        names = [*FIELDS, *map(document_field, numbers), *map(result_field, numbers)]
        values = await self._read(key, names)  # at once, so that all of it is of one moment
        job = unpack_job(tenant, job_id, values[: len(FIELDS)])
        if job is None:
            return None
        due: Any = None
        if job.ended_at is not None:  # otherwise it would be of a later moment
            due = await self._retry(lambda redis: redis.zscore(self._keys.deliveries, member))
        return WholeJob(
            job=job,
            documents=values[len(FIELDS) : -job.documents],
            results=values[-job.documents :],
            due_at=None if due is None else from_microseconds(int(due) * 1000),
        )

    async def _read(self, key: str, names: list[str]) -> list[bytes | None]:
        values: Any = await self._retry(lambda redis: redis.hmget(key, names))
        return list(values)

    async def replace(self, pipeline: Pipeline, whole: WholeJob) -> bool:
        """See `JobStore.put_whole`: an attempt at its transaction."""
        job, key = whole.job, self._keys.job(whole.job.tenant, whole.job.job_id)
        await pipeline.watch(key)
        *values, queued = await pipeline.hmget(key, [*FIELDS, "queued"])
        there = unpack_job(job.tenant, job.job_id, values)
        if there is not None and there.progress >= job.progress:
            return False
        pipeline.multi()
        pipeline.delete(key)
        self.add(pipeline, whole, queued=int(queued or 0))
        await pipeline.execute()
        return True

    def add(self, pipeline: Pipeline, whole: WholeJob, *, queued: int = 0) -> None:
        """Add a job by a transaction; its sets and lists may have it already.

        Args:
            pipeline: The transaction.
            whole: The job.
            queued: Documents, from the first on, that have been in the stream: those of them that
                still wait are in it.
        """
        job, keys = whole.job, self._keys
        key, member = keys.job(job.tenant, job.job_id), job_member(job.tenant, job.job_id)
        done = [number for number, each in enumerate(whole.documents) if each is None]
        # From `end` on all documents wait; finishing one puts the next of them into the stream.
        end = max(queued, min(max(done, default=-1) + 1 + QUEUED, job.documents))
        parts = {document_field(number): each for number, each in enumerate(whole.documents)}
        parts |= {result_field(number): each for number, each in enumerate(whole.results)}
        there = {name: part for name, part in parts.items() if part is not None}
        pipeline.hset(key, mapping={**pack_job(job), **there, "queued": end})
        pipeline.zadd(keys.listed(job.tenant), {job.position: 0})
        if job.expires_at is None:
            pipeline.sadd(keys.waiting(job.tenant), job.job_id)
            pipeline.sadd(keys.unended, member)
            for number in range(queued, end):
                if whole.documents[number] is not None:
                    pipeline.xadd(keys.queue, entry_of(job.tenant, job.job_id, number))
        else:
            pipeline.pexpireat(key, to_milliseconds(job.expires_at))
            pipeline.srem(keys.waiting(job.tenant), job.job_id)
            pipeline.srem(keys.unended, member)
        if whole.due_at is None:
            pipeline.zrem(keys.deliveries, member)
        else:
            pipeline.zadd(keys.deliveries, {member: to_milliseconds(whole.due_at)})
