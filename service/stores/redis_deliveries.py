"""Jobs in Redis whose end is to be told: a sorted set, by the time at which it is due."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from service.stores.jobs import StoredJob
from service.stores.redis_client import Pipeline, to_text, transact
from service.stores.redis_job_hashes import FIELDS, JobKeys, job_member, unpack_job
from service.stores.redis_records import RunCommands, to_milliseconds


class RedisDeliveries:
    """Deliveries of a Redis store.

    Args:
        run: Sends commands once.
        retry: Sends commands that may be repeated, and repeats them.
        keys: The keys of the jobs.
    """

    def __init__(self, run: RunCommands, retry: RunCommands, keys: JobKeys) -> None:
        self._run = run
        self._retry = retry
        self._keys = keys

    def add(self, pipeline: Pipeline, job: StoredJob) -> None:
        """Add a job, whose end is to be told at once, by a transaction."""
        due = to_milliseconds(datetime.now(UTC))
        pipeline.zadd(self._keys.deliveries, {job_member(job.tenant, job.job_id): due})

    async def take(self, lease: timedelta) -> StoredJob | None:
        """See `JobStore.take_delivery`."""
        now = to_milliseconds(datetime.now(UTC))
        due: Any = await self._retry(
            lambda redis: redis.zrange(
                self._keys.deliveries, "-inf", now, byscore=True, offset=0, num=1
            )
        )
        if not due:
            return None
        member = to_text(due[0])
        tenant, job_id = member.rsplit(":", 1)
        key = self._keys.job(tenant, job_id)

        async def take(pipeline: Pipeline) -> StoredJob | None:
            await pipeline.watch(key, self._keys.deliveries)
            score = await pipeline.zscore(self._keys.deliveries, member)
            job = unpack_job(tenant, job_id, await pipeline.hmget(key, FIELDS))
            if score is None or score > now:  # another service took it
                return None
            pipeline.multi()
            if job is None:
                pipeline.zrem(self._keys.deliveries, member)
            else:
                job = replace(job, deliveries=job.deliveries + 1)
                pipeline.hincrby(key, "deliveries", 1)
                again_at = to_milliseconds(datetime.now(UTC) + lease)
                pipeline.zadd(self._keys.deliveries, {member: again_at})
            await pipeline.execute()
            return job

        return await self._run(lambda redis: transact(redis, take))

    async def settle(self, job: StoredJob, *, again_at: datetime | None) -> None:
        """See `JobStore.settle_delivery`."""
        member = job_member(job.tenant, job.job_id)
        if again_at is None:
            await self._retry(lambda redis: redis.zrem(self._keys.deliveries, member))
        else:
            due = to_milliseconds(again_at)
            await self._retry(
                lambda redis: redis.zadd(self._keys.deliveries, {member: due}, xx=True)
            )
