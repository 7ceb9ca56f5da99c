"""A store in Redis (6.2 or later), which several services can share."""

import asyncio
import logging
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Mapping,
    Sequence,
)
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from redis.asyncio import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import ResponseError, WatchError

from gradmem_core.errors import QuotaError, StoreFullError, StoreUnavailableError
from service.stores.base import Store, probe_memory, spend_token
from service.stores.errors import (
    MemoryExistsError,
    check_memory_id,
    not_found,
    not_open,
    refuse_expired,
    translate_errors,
)
from service.stores.heads import (
    MEMORY_ID,
    MemoryFilter,
    MemoryHead,
    memory_key,
    split_key,
)
from service.stores.record_format import StoredMemory, pack, unpack
from service.stores.redis_client import Client, Pipeline, connect, to_text, transact
from service.stores.redis_errors import FOREIGN_ERRORS, explain
from service.stores.redis_index import KEY_PREFIX, RedisIndex
from service.stores.redis_jobs import RedisJobs
from service.stores.redis_records import RedisRecords, exchange_value, to_milliseconds
from service.stores.redis_usage import count, fetch_total_usage, fetch_usage
from service.stores.usage import NO_QUOTA, Quota, Usage

T = TypeVar("T")


API_KEYS = "gradmem:keys"
"Hash of the records of API keys by their id."
BUCKET_PREFIX = "gradmem:bucket:"
"Keys of the times at which the buckets of API keys are full again."
BUCKET_MILLISECONDS = 2000
"Time after which Redis drops a bucket, which is full by then."

DEADLINE_SECONDS = 5.0
"Longest time of an operation, connecting and retrying included."
RETRY_PAUSE_SECONDS = 0.05
"Pause between the two attempts of a read."
PROVISIONAL_SECONDS = 60
"""Time after which Redis drops a memory whose `put` was not completed, and after which what an
unfinished change left is put right."""
SWEEP_SECONDS = 60.0
"Time between removals of the entries of expired memories."
SCANNED = 1000
"Keys that Redis looks at in a step of `scan`."
NO_EVICTION = "noeviction"
"The only eviction policy that never drops memories."
ANY_KEY = "allkeys-"
"Beginning of the eviction policies that drop also what does not expire."

logger = logging.getLogger(__name__)


class RedisStore(Store):
    """A store that keeps each memory under one key, which Redis itself removes when it expires.

    Commands that can be repeated are retried once. Others are sent only once: a retry after a lost
    reply would meet the effect of the first attempt, and report that the memory exists, changed or
    is missing.

    A memory is listed as soon as its `put` succeeds: its entries of the index come before its
    confirmation, and go after it. Entries left behind are removed when a list meets them, or by the
    sweep. What tenants have is settled after each change, see service/stores/redis_usage.py.

    A new memory is stored with a short expiry first and gets its own expiry, or none, once Redis
    has confirmed it: one whose confirmation is lost does not stay.

    Args:
        url: `redis://` or `rediss://` (TLS), as redis-py reads it; for a node of a Redis Cluster
            `redis+cluster://` or `rediss+cluster://`; see `service.stores.create_store` for
            sentinels.
        allow_eviction: Open also where Redis may drop memories when its memory is full.

    Raises:
        ValueError: The URL cannot be used. The message repeats no part of it.
    """

    failed_puts_leave_nothing = False

    def __init__(self, url: str, *, allow_eviction: bool = False) -> None:
        super().__init__()
        connect(url, wait_seconds=DEADLINE_SECONDS)  # to refuse a bad URL now
        self._url = url
        self._allow_eviction = allow_eviction
        self._redis: Client | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._index = RedisIndex(self._retry)
        self.records = RedisRecords(self._run, self._retry, self._scan_keys)
        self.jobs: RedisJobs = RedisJobs(self._run, self._retry, self._scan_keys)
        self._spending: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        "Locks of keys: a service's own requests would only upset each other's transactions."

    @property
    def is_open(self) -> bool:
        """See `Store.is_open`."""
        return self._redis is not None

    async def open(self) -> None:
        """See `Store.open`.

        Raises:
            StoreUnavailableError: See `Store.open`; also if Redis may drop memories, or if it does
                not permit one of the store's commands.
        """
        self._redis = connect(self._url, wait_seconds=DEADLINE_SECONDS)
        self._index.open()
        try:
            await self._retry(lambda redis: redis.ping())
            await self._check_eviction()
            await self._rehearse()
            await self._index.fill(self.scan())
        except BaseException:
            await self.close()
            raise
        self._sweeper = asyncio.create_task(self._keep_sweeping())

    async def _publish(self, memory: StoredMemory, quota: Quota) -> None:
        """See `Store.put`."""
        records = {memory.key: pack(memory)}
        (created,) = await self._run(lambda redis: _create(redis, records))
        if not created:
            raise MemoryExistsError("a memory of this id exists")
        await self._confirm([memory], records, quota)

    async def put_many(self, memories: Sequence[StoredMemory]) -> list[bool]:
        """See `Store.put_many`."""
        records = {memory.key: pack(memory) for memory in memories}
        created = await self._run(lambda redis: _create(redis, records))
        new = [memory for memory, is_new in zip(memories, created, strict=True) if is_new]
        await self._confirm(new, records)
        return created

    async def complete_put(self, tenant: str, memory_id: str) -> StoredMemory:
        """See `Store.complete_put`."""
        memory = await self.get(tenant, memory_id)
        await self._confirm([memory])
        return memory

    async def _confirm(
        self,
        memories: Sequence[StoredMemory],
        records: Mapping[str, bytes] | None = None,
        quota: Quota = NO_QUOTA,
    ) -> None:
        """List and count memories that are stored, and give them their own expiry.

        Args:
            memories: The memories.
            records: Their new records by their keys; None where they may have been counted already.
            quota: Most that a tenant may have with them.

        Raises:
            QuotaError: They were beyond the quota, and have been deleted again.
        """
        await self._index.begin_changes(memories, PROVISIONAL_SECONDS)
        tenants: dict[str, list[StoredMemory]] = {}
        for memory in memories:
            tenants.setdefault(memory.tenant, []).append(memory)
        for tenant, its_memories in tenants.items():
            if records is None:
                await self._index.settle(tenant, [memory.memory_id for memory in its_memories])
            else:
                sizes = {memory.memory_id: len(records[memory.key]) for memory in its_memories}
                await self._count(tenant, sizes, quota)
        expiries = {KEY_PREFIX + memory.key: memory.expires_at for memory in memories}
        if not await self._retry(lambda redis: _set_expiries(redis, expiries)):
            raise StoreUnavailableError(
                "the Redis store dropped the memory before it was complete; try again"
            )
        await self._index.end_changes(memories)

    async def _count(self, tenant: str, sizes: Mapping[str, int], quota: Quota) -> None:
        """Count new memories of a tenant; delete them again where they are beyond its quota.

        Args:
            tenant: The tenant.
            sizes: Bytes of their records by the ids of the memories.
            quota: Most that it may have with them.

        Raises:
            QuotaError: They were.
        """
        usage = await self._run(lambda redis: count(redis, tenant, sizes))
        if usage is None:
            await self._index.settle(tenant, list(sizes))
            usage = await self.usage(tenant)
        added = Usage(len(sizes), sum(sizes.values()))
        try:
            quota.check(usage - added, added)
        except QuotaError:  # or not, without what has expired
            try:
                await self.check_room(tenant, quota, added, counted=True)
            except QuotaError:
                await self.delete_many(tenant, list(sizes))
                raise

    async def get(self, tenant: str, memory_id: str) -> StoredMemory:
        """See `Store.get`."""
        check_memory_id(memory_id)
        key = KEY_PREFIX + memory_key(tenant, memory_id)
        record = await self._retry(lambda redis: redis.get(key))
        if record is None:
            raise not_found()
        memory = unpack(tenant, memory_id, record)
        refuse_expired(memory)  # the clock of the server may be behind ours
        return memory

    async def replace(self, old: StoredMemory, new: StoredMemory, quota: Quota = NO_QUOTA) -> bool:
        """See `Store.replace`; changes at the same moment may exceed the quota together."""
        refuse_expired(old)
        key, before, after = KEY_PREFIX + old.key, pack(old), pack(new)
        await self.check_room(old.tenant, quota, Usage(0, len(after) - len(before)))
        await self._index.begin_changes([new], PROVISIONAL_SECONDS)
        outcome = await self._run(
            lambda redis: exchange_value(redis, key, before, after, new.expires_at)
        )
        if outcome is None:
            raise not_found()
        if outcome:
            with suppress(StoreUnavailableError):  # it is stored; the sweep does what is missing
                await self._index.settle(new.tenant, [new.memory_id])
                await self._index.end_changes([new], replaced=[old])
        return outcome

    async def delete_many(self, tenant: str, memory_ids: Collection[str]) -> list[str]:
        """See `Store.delete_many`; the bytes stay in Redis' files until it rewrites them (`purge`).

        Of memories on several nodes of a cluster, some may be deleted although the call fails.
        """
        ids = [memory_id for memory_id in memory_ids if MEMORY_ID.fullmatch(memory_id)]
        if not ids:
            return []
        heads = [head for head in await self._index.read_heads(tenant, ids) if head is not None]
        with suppress(StoreFullError):  # a full store deletes without
            await self._index.note_changes(heads, PROVISIONAL_SECONDS)
        deleted = await self._run(
            lambda redis: _delete(redis, [KEY_PREFIX + memory_key(tenant, each) for each in ids])
        )
        with suppress(StoreUnavailableError):  # a list that meets the entries removes them
            await self._index.remove(tenant, ids, heads)
        return [memory_id for memory_id, there in zip(ids, deleted, strict=True) if there]

    async def _walk(
        self, tenant: str, tag: str, before: str, count: int
    ) -> list[tuple[str, MemoryHead | None]]:
        """See `Store.list_memories`."""
        return await self._index.walk(tenant, tag, before, count)

    async def total_usage(self) -> Usage:
        """See `Store.total_usage`."""
        return await self._retry(fetch_total_usage)

    async def usage(self, tenant: str) -> Usage:
        """See `Store.usage`."""
        return await self._retry(lambda redis: fetch_usage(redis, tenant))

    async def scan(self) -> AsyncIterator[tuple[str, str]]:
        """See `Store.scan`; a memory may come twice."""
        async for key in self._scan_keys(KEY_PREFIX):
            yield split_key(key)

    async def _scan_keys(self, prefix: str) -> AsyncIterator[str]:
        """Yield what follows a prefix in each key that begins with it, at least once."""
        if self._redis is None:
            raise not_open("Redis")
        with translate_errors(FOREIGN_ERRORS, explain):
            async for key in self._redis.scan_iter(match=f"{prefix}*", count=SCANNED):
                yield to_text(key).removeprefix(prefix)

    async def save_key(self, key_id: str, record: str) -> None:
        """See `Store.save_key`.

        Raises:
            StoreUnavailableError: See `Store`; also if Redis may drop the key.
        """
        _check_keys_stay(await self._retry(_fetch_eviction_policies))
        await self._retry(lambda redis: redis.hset(API_KEYS, key_id, record))

    async def find_key(self, key_id: str) -> str | None:
        """See `Store.find_key`."""
        record = await self._retry(lambda redis: redis.hget(API_KEYS, key_id))
        return None if record is None else to_text(record)

    async def list_keys(self) -> list[str]:
        """See `Store.list_keys`."""
        return list(map(to_text, await self._retry(lambda redis: redis.hvals(API_KEYS))))

    async def has_keys(self) -> bool:
        """See `Store.has_keys`."""
        return bool(await self._retry(lambda redis: redis.exists(API_KEYS)))

    async def take_token(self, key_id: str, per_second: int) -> float:
        """See `Store.take_token`; the clocks of the services have to agree."""
        async with self._spending.setdefault(key_id, asyncio.Lock()):
            key = BUCKET_PREFIX + key_id
            return await self._run(lambda redis: _spend_token(redis, key, per_second))

    async def probe(self) -> None:
        """See `Store.probe`; the command that lasting memories need is sent without a memory."""
        await super().probe()
        key = KEY_PREFIX + probe_memory().key
        await self._retry(lambda redis: _set_expiries(redis, {key: None}))

    async def purge(self) -> None:
        """See `Store.purge`: start a rewrite of the append-only file, which Redis does by itself.

        Raises:
            StoreUnavailableError: See `Store`; also if Redis rewrites or saves just now.
        """
        await self._run(lambda redis: redis.bgrewriteaof(**_on_every_primary(redis)))

    async def _release(self) -> None:
        """See `Store.close`."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        redis, self._redis = self._redis, None
        if redis is not None:
            with translate_errors(FOREIGN_ERRORS, explain):
                await redis.aclose()

    async def _check_eviction(self) -> None:
        """Refuse a Redis that may drop memories.

        Raises:
            StoreUnavailableError: Its eviction policy is another than `noeviction`, and that is not
                allowed, or would drop the API keys that there are.
        """
        policies = await self._retry(_fetch_eviction_policies)
        if not policies:
            logger.warning("Redis does not permit +info: its eviction policy cannot be checked")
        dropping = policies - {NO_EVICTION}
        if dropping and not self._allow_eviction:
            raise StoreUnavailableError(
                f"the Redis store has maxmemory-policy {min(dropping)}, which drops memories when"
                f" its memory is full; set it to {NO_EVICTION}, or allow that with"
                " GRADMEM_ALLOW_EVICTION=true"
            )
        if await self.has_keys():
            _check_keys_stay(policies)

    async def _keep_sweeping(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await self.sweep()
            except StoreUnavailableError as error:
                logger.warning("expired memories could not be removed from lists: %s", error)

    async def sweep(self) -> None:
        """See `Store.sweep`."""
        await self._index.sweep()

    async def _rehearse(self) -> None:
        """Send every command once, so that a missing permission shows at the start."""
        memory = probe_memory()
        named = replace(memory, name="probe")
        key = KEY_PREFIX + memory.key
        try:
            await self.probe()
            await self.put(memory)
            await self.replace(memory, named)
            await self.replace(memory, named)  # refused: it has changed
            await self.replace(named, memory)
            await self.list_memories(memory.tenant, MemoryFilter(), limit=1)
            await self.delete(memory.tenant, memory.memory_id)
            await self._retry(lambda redis: redis.scan(count=1))
            await self._retry(lambda redis: _rehearse_hset(redis, key))
            await self.find_key("")
            await self.list_keys()
            await self.records.count("")
            await self.jobs.rehearse()
        except StoreFullError as error:  # memories can still be read and deleted
            logger.warning("%s", error)

    async def _retry(self, command: Callable[[Client], Awaitable[T]]) -> T:
        retry = Retry(ConstantBackoff(RETRY_PAUSE_SECONDS), retries=1)
        return await self._run(lambda redis: retry.call_with_retry(lambda: command(redis), _ignore))

    async def _run(self, command: Callable[[Client], Awaitable[T]]) -> T:
        if self._redis is None:
            raise not_open("Redis")
        with translate_errors(FOREIGN_ERRORS, explain):
            async with asyncio.timeout(DEADLINE_SECONDS):
                return await command(self._redis)


async def _rehearse_hset(redis: Client, key: str) -> None:
    """Store a hash and delete it at once: API keys would close the service to everyone else."""
    async with redis.pipeline(transaction=True) as pipeline:
        pipeline.hset(key, "probe", "")
        pipeline.delete(key)
        await pipeline.execute()


async def _create(redis: Client, records: Mapping[str, bytes]) -> list[bool]:
    """Store records provisionally; return False for each whose key is taken."""
    async with redis.pipeline(transaction=False) as pipeline:
        for key, record in records.items():
            pipeline.set(KEY_PREFIX + key, record, nx=True, ex=PROVISIONAL_SECONDS)
        return list(map(bool, await pipeline.execute()))


async def _set_expiries(redis: Client, expiries: Mapping[str, datetime | None]) -> bool:
    """Give stored memories their own expiry; return False where one is gone. May be repeated."""
    async with redis.pipeline(transaction=False) as pipeline:
        for key, expires_at in expiries.items():
            if expires_at is None:
                pipeline.persist(key)
            else:
                pipeline.pexpireat(key, to_milliseconds(expires_at))
            pipeline.exists(key)
        replies: list[int] = await pipeline.execute()
    return all(changed or there for changed, there in zip(replies[::2], replies[1::2], strict=True))


async def _delete(redis: Client, keys: Collection[str]) -> list[int]:
    """Delete keys; return 1 for each that was there, 0 for the others."""
    async with redis.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.delete(key)
        counts: list[int] = await pipeline.execute()
        return counts


async def _spend_token(redis: Client, key: str, per_second: int) -> float:
    """Take a token from a bucket; see `Store.take_token`."""

    async def spend(pipeline: Pipeline) -> float:
        await pipeline.watch(key)
        stored = await pipeline.get(key)
        full_at, wait = spend_token(float(stored or 0), time.time(), per_second)
        if wait > 0:
            return wait
        pipeline.multi()
        pipeline.set(key, repr(full_at), px=BUCKET_MILLISECONDS)
        await pipeline.execute()
        return 0

    try:
        return await transact(redis, spend)
    except WatchError:  # others took every token that came
        return 1 / per_second


async def _fetch_eviction_policies(redis: Client) -> set[str]:
    """Return the policies of the server, or of a cluster's; empty where Redis does not tell."""
    try:
        memory: dict[str, Any] = await redis.info("memory", **_on_every_primary(redis))
    except ResponseError:
        return set()
    servers = memory.values() if isinstance(redis, RedisCluster) else [memory]
    return {server["maxmemory_policy"] for server in servers if "maxmemory_policy" in server}


def _check_keys_stay(policies: Collection[str]) -> None:
    """Refuse eviction policies that may drop API keys: without them the service would be open.

    Raises:
        StoreUnavailableError: One of the policies does that.
    """
    for policy in policies:
        if policy.startswith(ANY_KEY):
            raise StoreUnavailableError(
                f"the Redis store has maxmemory-policy {policy}, which may drop API keys too, and"
                f" without them the service would be open to everyone; set it to {NO_EVICTION}"
            )


def _on_every_primary(redis: Client) -> dict[str, Any]:
    """Return the argument with which a cluster runs a command on all of its primaries."""
    return {"target_nodes": RedisCluster.PRIMARIES} if isinstance(redis, RedisCluster) else {}


async def _ignore(_error: Exception) -> None:
    """Do nothing about a failed attempt: redis-py has already closed its connection."""
