"""Jobs in Redis: a stream with a consumer group holds the documents that wait or are leased.

All keys have one hash tag, so that transactions hold on a Redis Cluster. A job has few documents in
the stream at a time; a finished one puts the next at the end. So jobs take turns. All services
read as one consumer: a lease is told by the entry and the number of its deliveries.
"""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from redis.exceptions import ResponseError

from service.stores.base import PROBE_TENANT
from service.stores.heads import memory_id_at
from service.stores.jobs import JobStore, JobTask, StoredJob, WholeJob
from service.stores.redis_client import Client, Pipeline, fetch_positions, to_text, transact
from service.stores.redis_deliveries import RedisDeliveries
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
from service.stores.redis_records import RunCommands, ScanKeys, to_milliseconds
from service.stores.redis_whole_jobs import RedisWholeJobs

T = TypeVar("T")

PREFIX = "gradmem:{jobs}:"
GROUP = CONSUMER = "workers"
CLEANED = 10
"Oldest entries of a list of jobs that each new job checks."


class RedisJobs(JobStore):
    """Jobs of a Redis store.

    Args:
        run: Sends commands once.
        retry: Sends commands that may be repeated, and repeats them.
        scan_keys: Finds keys.
        prefix: Beginning of the keys.
    """

    def __init__(
        self, run: RunCommands, retry: RunCommands, scan_keys: ScanKeys, prefix: str = PREFIX
    ) -> None:
        self._run = run
        self._retry = retry
        self._scan_keys = scan_keys
        self._keys = JobKeys(prefix)
        self._deliveries = RedisDeliveries(run, retry, self._keys)
        self._whole = RedisWholeJobs(retry, self._keys)
        self._claimed = "0-0"  # the entry from which the next search for lost leases goes on

    async def rehearse(self) -> None:
        """Send every command once, on keys of its own, so that a missing permission shows."""
        prefix = f"{PREFIX}probe:{secrets.token_hex(8)}:"
        probe = RedisJobs(self._run, self._retry, self._scan_keys, prefix)
        lease = keep = timedelta(1)
        job = StoredJob(
            tenant=PROBE_TENANT,
            job_id=secrets.token_hex(16),
            seed="",
            documents=2,
            created_at=datetime.now(UTC),
            webhook=b"",
        )
        try:
            await probe.add(job, [b"", b""], most=1)
            for _ in range(2):
                task = await probe.take(lease)
                assert task is not None
                await probe.renew(task, lease)
                await probe.give_back(task)
            while (task := await probe.take(lease)) is not None:
                await probe.finish(task, b"", written=True, keep=keep)
            await probe.find_results(job)
            delivered = await probe.take_delivery(lease)
            assert delivered is not None
            await probe.settle_delivery(delivered, again_at=None)
            await probe.cancel(job.tenant, job.job_id, keep=keep)
            await probe.remove_oldest(job.tenant, most=1)
            await probe.count()
        finally:
            keys = probe._keys
            names = [keys.queue, keys.unended, keys.deliveries, keys.job(job.tenant, job.job_id)]
            names += [keys.listed(job.tenant), keys.waiting(job.tenant)]
            await self._retry(lambda redis: redis.delete(*names))

    async def add(self, job: StoredJob, documents: Sequence[bytes], *, most: int) -> bool:
        """See `JobStore.add`."""
        keys, key = self._keys, self._keys.job(job.tenant, job.job_id)

        async def add(pipeline: Pipeline) -> bool:
            await pipeline.watch(key, keys.waiting(job.tenant))
            if (await pipeline.hmget(key, ["seed"]))[0] is not None:
                return True
            if await pipeline.scard(keys.waiting(job.tenant)) >= most:
                return False
            none = [None] * len(documents)
            pipeline.multi()
            self._whole.add(pipeline, WholeJob(job=job, documents=documents, results=none))
            await pipeline.execute()
            return True

        await self._retry(self._create_group)
        added = await self._transact(add)
        await self._clean_list(job.tenant)
        return added

    async def find(self, tenant: str, job_id: str) -> StoredJob | None:
        """See `JobStore.find`."""
        key = self._keys.job(tenant, job_id)
        values = await self._retry(lambda redis: _await(redis.hmget(key, FIELDS)))
        return unpack_job(tenant, job_id, values)

    async def list_jobs(self, tenant: str, *, before: str, limit: int) -> list[StoredJob]:
        """See `JobStore.list_jobs`; entries of jobs that are gone are removed on the way."""
        found: list[StoredJob] = []
        key = self._keys.listed(tenant)
        while len(found) < limit:
            wanted = limit - len(found)
            positions = await self._retry(
                lambda redis, before=before, wanted=wanted: fetch_positions(  # type: ignore[misc]
                    redis, key, before, wanted
                )
            )
            found += await self._fetch(tenant, positions)
            if len(positions) < wanted:
                break
            before = positions[-1]
        return found

    async def _create_group(self, redis: Client) -> None:
        """Create the consumer group where it is missing: a Redis that lost its data has none."""
        try:
            await redis.xgroup_create(self._keys.queue, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):  # it is there
                raise

    async def _clean_list(self, tenant: str) -> None:
        """Remove the oldest entries of a list, where their jobs are gone."""
        key = self._keys.listed(tenant)
        oldest = await self._retry(lambda redis: redis.zrange(key, 0, CLEANED - 1))
        await self._fetch(tenant, oldest)

    async def _fetch(self, tenant: str, positions: Sequence[Any]) -> list[StoredJob]:
        """Return the jobs at positions; remove the positions of those that are gone."""
        ids = [memory_id_at(to_text(position)) for position in positions]

        async def fetch(redis: Client) -> Any:  # noqa: ANN401
            async with redis.pipeline(transaction=False) as pipeline:
                for job_id in ids:
                    pipeline.hmget(self._keys.job(tenant, job_id), FIELDS)
                return await pipeline.execute()

        rows = await self._retry(fetch) if ids else []
        jobs = [unpack_job(tenant, job_id, row) for job_id, row in zip(ids, rows, strict=True)]
        gone = [place for place, job in zip(positions, jobs, strict=True) if job is None]
        if gone:
            await self._retry(lambda redis: redis.zrem(self._keys.listed(tenant), *gone))
        return [job for job in jobs if job is not None]

    async def find_results(self, job: StoredJob) -> list[bytes | None]:
        """See `JobStore.find_results`."""
        names = [result_field(number) for number in range(job.documents)]
        results: list[bytes | None] = await self._retry(
            lambda redis: _await(redis.hmget(self._keys.job(job.tenant, job.job_id), names))
        )
        return results

    async def take(self, lease: timedelta) -> JobTask | None:
        """See `JobStore.take`."""
        while (entry := await self._take_entry(lease)) is not None:
            task = await self._transact(lambda pipeline, entry=entry: self._open(pipeline, *entry))  # type: ignore[misc]
            if task is not None:
                return task
        return None

    async def _take_entry(self, lease: timedelta) -> tuple[str, Mapping[Any, Any], int] | None:
        """Return an entry with the number of its deliveries: a lost one, or a new one."""
        idle = int(lease / timedelta(milliseconds=1))
        claimed = await self._run(lambda redis: self._claim_lost(redis, idle))
        if claimed:
            entry, fields = to_text(claimed[0][0]), claimed[0][1]
            return entry, fields, await self._count_deliveries(entry)
        new = await self._run(self._read_new)
        return (to_text(new[0][0]), new[0][1], 1) if new else None

    async def _claim_lost(self, redis: Client, idle: int) -> list[Any]:
        """Take over an entry whose lease has run out."""
        try:
            reply = await redis.xautoclaim(
                self._keys.queue, GROUP, CONSUMER, idle, start_id=self._claimed, count=1
            )
        except ResponseError as error:
            return _nothing_without_group(error)
        self._claimed = to_text(reply[0])
        return [entry for entry in reply[1] if entry[1]]

    async def _read_new(self, redis: Client) -> list[Any]:
        """Take an entry that nobody has had."""
        try:
            streams: Any = await redis.xreadgroup(GROUP, CONSUMER, {self._keys.queue: ">"}, 1)
        except ResponseError as error:
            return _nothing_without_group(error)
        return [entry for _, entries in streams for entry in entries]

    async def _open(
        self,
        pipeline: Pipeline,
        receipt: str,
        fields: Mapping[Any, Any],
        attempts: int,
    ) -> JobTask | None:
        """Return the document of an entry; remove the entry where the document is done."""
        named = {to_text(name): to_text(value) for name, value in fields.items()}
        tenant, job_id, number = named["tenant"], named["job_id"], int(named["number"])
        key = self._keys.job(tenant, job_id)
        await pipeline.watch(key)
        seed, document, begun = await pipeline.hmget(key, ["seed", document_field(number), "begun"])
        pipeline.multi()
        if document is None:
            self._drop(pipeline, receipt)
        elif begun != b"1":
            pipeline.hset(key, "begun", 1)
        await pipeline.execute()
        if document is None:
            return None
        return JobTask(
            tenant=tenant,
            job_id=job_id,
            number=number,
            seed=to_text(seed),
            document=document,
            attempts=attempts,
            receipt=receipt,
        )

    async def _count_deliveries(self, entry: str) -> int:
        """Return how often an entry has been delivered; 0 where it is not leased any more."""
        pending = await self._retry(
            lambda redis: redis.xpending_range(
                self._keys.queue, GROUP, min=entry, max=entry, count=1
            )
        )
        return int(pending[0]["times_delivered"]) if pending else 0

    async def renew(self, task: JobTask, lease: timedelta) -> bool:
        """See `JobStore.renew`; the lease of a Redis store is the same for all."""
        del lease
        if await self._count_deliveries(task.receipt) != task.attempts:
            return False
        await self._run(
            lambda redis: redis.xclaim(
                self._keys.queue, GROUP, CONSUMER, 0, [task.receipt], justid=True
            )
        )
        return True

    async def give_back(self, task: JobTask) -> None:
        """See `JobStore.give_back`: the document goes to the end of the stream."""

        async def give_back(pipeline: Pipeline) -> None:
            pipeline.xadd(self._keys.queue, entry_of(task.tenant, task.job_id, task.number))
            self._drop(pipeline, task.receipt)
            await pipeline.execute()

        if await self._count_deliveries(task.receipt) == task.attempts:
            await self._transact(give_back)

    async def finish(
        self, task: JobTask, result: bytes, *, written: bool, keep: timedelta
    ) -> StoredJob | None:
        """See `JobStore.finish`."""
        key = self._keys.job(task.tenant, task.job_id)

        async def finish(pipeline: Pipeline) -> StoredJob | None:
            await pipeline.watch(key)
            *values, done, queued = await pipeline.hmget(
                key, [*FIELDS, result_field(task.number), "queued"]
            )
            job = unpack_job(task.tenant, task.job_id, values)
            pipeline.multi()
            self._drop(pipeline, task.receipt)
            counted = None
            if job is not None and done is None:
                counted = job.count(written=written, keep=keep)
                pipeline.hdel(key, document_field(task.number))
                pipeline.hset(key, result_field(task.number), result)
                if job.ended_at is None and int(queued) < job.documents:
                    pipeline.xadd(self._keys.queue, entry_of(task.tenant, task.job_id, int(queued)))
                    pipeline.hincrby(key, "queued", 1)
                self._store_progress(pipeline, job, counted)
            await pipeline.execute()
            return counted

        return await self._transact(finish)

    async def cancel(self, tenant: str, job_id: str, *, keep: timedelta) -> bool:
        """See `JobStore.cancel`; a service that meets an entry of the job removes it."""
        key = self._keys.job(tenant, job_id)

        async def cancel(pipeline: Pipeline) -> bool:
            await pipeline.watch(key)
            job = unpack_job(tenant, job_id, await pipeline.hmget(key, FIELDS))
            if job is None or job.ended_at is not None:
                return False
            pipeline.multi()
            pipeline.hdel(key, *map(document_field, range(job.documents)))
            self._store_progress(pipeline, job, job.end(keep, cancelled=True))
            await pipeline.execute()
            return True

        return await self._transact(cancel)

    async def remove(self, tenant: str, job_id: str) -> bool:
        """See `JobStore.remove`."""
        key = self._keys.job(tenant, job_id)

        async def remove(pipeline: Pipeline) -> bool:
            await pipeline.watch(key)
            job = unpack_job(tenant, job_id, await pipeline.hmget(key, FIELDS))
            if job is None or job.ended_at is None:
                return False
            pipeline.multi()
            pipeline.delete(key)
            pipeline.zrem(self._keys.listed(tenant), job.position)
            pipeline.zrem(self._keys.deliveries, job_member(tenant, job_id))
            await pipeline.execute()
            return True

        return await self._transact(remove)

    async def remove_oldest(self, tenant: str, *, most: int) -> None:
        """See `JobStore.remove_oldest`: jobs that have not ended may be among the newest kept."""
        listed, waiting = self._keys.listed(tenant), self._keys.waiting(tenant)
        kept = most + int(await self._retry(lambda redis: _await(redis.scard(waiting))))
        oldest = await self._retry(lambda redis: redis.zrange(listed, 0, -kept - 1))
        for job in await self._fetch(tenant, oldest):
            await self.remove(tenant, job.job_id)

    async def count(self) -> int:
        """See `JobStore.count`."""
        return int(await self._retry(lambda redis: _await(redis.scard(self._keys.unended))))

    async def take_delivery(self, lease: timedelta) -> StoredJob | None:
        """See `JobStore.take_delivery`."""
        return await self._deliveries.take(lease)

    async def settle_delivery(self, job: StoredJob, *, again_at: datetime | None) -> None:
        """See `JobStore.settle_delivery`."""
        await self._deliveries.settle(job, again_at=again_at)

    async def scan(self) -> AsyncIterator[tuple[str, str]]:
        """See `JobStore.scan`."""
        async for name in self._scan_keys(self._keys.job_prefix):
            tenant, job_id = name.rsplit(":", 1)
            yield tenant, job_id

    async def fetch_whole(self, tenant: str, job_id: str) -> WholeJob | None:
        """See `JobStore.fetch_whole`."""
        return await self._whole.fetch(tenant, job_id)

    async def put_whole(self, whole: WholeJob) -> bool:
        """See `JobStore.put_whole`."""
        await self._retry(self._create_group)
        return await self._transact(lambda pipeline: self._whole.replace(pipeline, whole))

    def _store_progress(self, pipeline: Pipeline, old: StoredJob, new: StoredJob) -> None:
        """Store the progress of a job; one that has just ended expires, and is to be told."""
        key = self._keys.job(new.tenant, new.job_id)
        pipeline.hset(key, mapping=pack_job(new))
        if old.ended_at is None and new.expires_at is not None:
            pipeline.pexpireat(key, to_milliseconds(new.expires_at))
            pipeline.srem(self._keys.waiting(new.tenant), new.job_id)
            pipeline.srem(self._keys.unended, job_member(new.tenant, new.job_id))
            if new.webhook is not None:
                self._deliveries.add(pipeline, new)

    def _drop(self, pipeline: Pipeline, receipt: str) -> None:
        """Remove an entry from the stream."""
        pipeline.xack(self._keys.queue, GROUP, receipt)
        pipeline.xdel(self._keys.queue, receipt)

    async def _transact(self, attempt: Callable[[Pipeline], Awaitable[T]]) -> T:
        return await self._run(lambda redis: transact(redis, attempt))


def _nothing_without_group(error: ResponseError) -> list[Any]:
    """Return no entries where the group is missing, which the next job creates."""
    if "NOGROUP" not in str(error):
        raise error
    return []


async def _await(reply: Any) -> Any:  # noqa: ANN401
    """Await a reply that redis-py types as one of its synchronous client, too."""
    return await reply
