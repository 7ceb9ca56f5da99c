"""A store in Redis (6.2 or later), which several services can share."""

import asyncio
import logging
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar
from weakref import WeakValueDictionary

from redis.asyncio import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import ResponseError, WatchError

from gradmem_core.errors import QuotaError, StoreFullError, StoreUnavailableError
from service.stores.base import (
    MemoryExistsError,
    Store,
    StoredMemory,
    check_memory_id,
    head_size,
    not_found,
    not_open,
    pack,
    probe_memory,
    refuse_expired,
    spend_token,
    translate_errors,
    unpack,
    unpack_head,
)
from service.stores.heads import (
    MEMORY_ID,
    NEWEST,
    MemoryFilter,
    MemoryHead,
    memory_id_at,
    memory_key,
    split_key,
    tenant_of_tag,
)
from service.stores.redis_client import Client, connect
from service.stores.redis_errors import FOREIGN_ERRORS, explain
from service.stores.redis_jobs import RedisJobs
from service.stores.redis_records import RedisRecords, exchange_value, to_milliseconds
from service.stores.redis_usage import count, fetch_usage, settle
from service.stores.usage import NO_QUOTA, Quota, Usage

T = TypeVar("T")
Entry: TypeAlias = tuple[str, str]
"A key of the index, and a member of the sorted set under it."

KEY_PREFIX = "gradmem:memory:"
"""Keys of memories. Another key of a memory would have to be named `{KEY}:NAME`, so that a cluster
keeps both in one slot."""
INDEX_PREFIX = "gradmem:index:"
"Keys of the sorted sets of positions, by tag; see service/stores/heads.py."
EXPIRING = "gradmem:expiring"
"""Sorted set of the entries of memories that expire, by the time at which they do; and of those
that are being changed, by a time at which what an unfinished change left is put right."""
INDEXED = "gradmem:indexed"
"Key of the version of the index and of the usage in which all memories are, older ones too."
VERSION = 2
API_KEYS = "gradmem:keys"
"Hash of the records of API keys by their id."
BUCKET_PREFIX = "gradmem:bucket:"
"Keys of the times at which the buckets of API keys are full again."
BUCKET_MILLISECONDS = 2000
"Time after which Redis drops a bucket, which is full by then."
SPENDING_ATTEMPTS = 20
"Attempts to take a token while other services take some of the same key."

DEADLINE_SECONDS = 5.0
"Longest time of an operation, connecting and retrying included."
RETRY_PAUSE_SECONDS = 0.05
"Pause between the two attempts of a read."
PROVISIONAL_SECONDS = 60
"""Time after which Redis drops a memory whose `put` was not completed, and after which what an
unfinished change left is put right."""
SWEEP_SECONDS = 60.0
"Time between removals of the entries of expired memories."
BATCH = 500
"Memories that one step of a sweep, or of filling the index, goes through."
HEAD_BYTES = 1024
"Bytes of a record that are fetched for its head; more where that is larger."
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
        self.records = RedisRecords(self._run, self._retry)
        self.jobs: RedisJobs = RedisJobs(self._run, self._retry)
        self._spending: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        "Locks of keys: a service's own requests would only upset each other's transactions."
        self._settling = asyncio.Lock()
        "Held while usage is settled, for the same reason; a settlement takes two connections."
        self._unsettled: dict[str, set[str]] = {}
        "Ids of memories whose sizes are to be settled, by their tenants."

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
        self._settling = asyncio.Lock()
        try:
            await self._retry(lambda redis: redis.ping())
            await self._check_eviction()
            await self._rehearse()
            await self._list_all()
        except BaseException:
            await self.close()
            raise
        self._sweeper = asyncio.create_task(self._keep_sweeping())

    async def _publish(self, memory: StoredMemory, quota: Quota) -> None:
        """See `Store.put`."""
        records = {KEY_PREFIX + memory.key: pack(memory)}
        (created,) = await self._run(lambda redis: _create(redis, records))
        if not created:
            raise MemoryExistsError("a memory of this id exists")
        await self._confirm([memory], quota)

    async def put_many(self, memories: Sequence[StoredMemory]) -> list[bool]:
        """See `Store.put_many`."""
        records = {KEY_PREFIX + memory.key: pack(memory) for memory in memories}
        created = await self._run(lambda redis: _create(redis, records))
        await self._confirm([each for each, new in zip(memories, created, strict=True) if new])
        return created

    async def complete_put(self, tenant: str, memory_id: str) -> StoredMemory:
        """See `Store.complete_put`."""
        memory = await self.get(tenant, memory_id)
        await self._confirm([memory], again=True)
        return memory

    async def _confirm(
        self, memories: Sequence[StoredMemory], quota: Quota = NO_QUOTA, *, again: bool = False
    ) -> None:
        """List and count memories that are stored, and give them their own expiry.

        Args:
            memories: The memories.
            quota: Most that a tenant may have with them.
            again: True where they may have been counted already.

        Raises:
            QuotaError: They were beyond the quota, and have been deleted again.
        """
        await self._begin_changes(*memories)
        tenants: dict[str, list[StoredMemory]] = {}
        for memory in memories:
            tenants.setdefault(memory.tenant, []).append(memory)
        for tenant, its_memories in tenants.items():
            if again:
                await self._settle(tenant, [memory.memory_id for memory in its_memories])
            else:
                await self._count(tenant, its_memories, quota)
        expiries = {KEY_PREFIX + memory.key: memory.expires_at for memory in memories}
        if not await self._retry(lambda redis: _set_expiries(redis, expiries)):
            raise StoreUnavailableError(
                "the Redis store dropped the memory before it was complete; try again"
            )
        await self._end_changes(*memories)

    async def _count(self, tenant: str, memories: Sequence[StoredMemory], quota: Quota) -> None:
        """Count new memories of a tenant; delete them again where they are beyond its quota.

        Raises:
            QuotaError: They were.
        """
        sizes = {memory.memory_id: len(pack(memory)) for memory in memories}
        usage = await self._run(lambda redis: count(redis, tenant, sizes))
        if usage is None:
            await self._settle(tenant, list(sizes))
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
        await self._begin_changes(new)
        outcome = await self._run(
            lambda redis: exchange_value(redis, key, before, after, new.expires_at)
        )
        if outcome is None:
            raise not_found()
        if outcome:
            await self._settle(new.tenant, [new.memory_id])
            await self._end_changes(new, stale=_entries(old).keys() - _entries(new).keys())
        return outcome

    async def _begin_changes(self, *memories: MemoryHead) -> None:
        """List memories, and note that they are being changed."""
        entries = _merge(map(_entries, memories)) | _merge(map(_note, memories))
        await self._retry(lambda redis: _change_index(redis, add=entries))

    async def _end_changes(self, *memories: MemoryHead, stale: Collection[Entry] = ()) -> None:
        """Take back the notes of changes, and entries that are stale."""
        entries, notes = _merge(map(_entries, memories)), _merge(map(_note, memories))
        lasting = {entry: entries[entry] for entry in notes if entry in entries}
        remove = {*stale, *notes} - lasting.keys()
        await self._retry(lambda redis: _change_index(redis, add=lasting, remove=remove))

    async def delete_many(self, tenant: str, memory_ids: Collection[str]) -> list[str]:
        """See `Store.delete_many`; the bytes stay in Redis' files until it rewrites them (`purge`).

        Of memories on several nodes of a cluster, some may be deleted although the call fails.
        """
        ids = [memory_id for memory_id in memory_ids if MEMORY_ID.fullmatch(memory_id)]
        if not ids:
            return []
        heads = [head for head in await self._read_heads(tenant, ids) if head is not None]
        notes = _merge(map(_note, heads))
        with suppress(StoreFullError):  # a full store deletes without
            await self._retry(lambda redis: _change_index(redis, add=notes))
        deleted = await self._run(
            lambda redis: _delete(redis, [KEY_PREFIX + memory_key(tenant, each) for each in ids])
        )
        entries = {*_merge(map(_entries, heads)), *notes}
        with suppress(StoreUnavailableError):  # a list that meets the entries removes them
            await self._unlist(tenant, ids, entries)
        return [memory_id for memory_id, there in zip(ids, deleted, strict=True) if there]

    async def _walk(
        self, tenant: str, tag: str, before: str, count: int
    ) -> list[tuple[str, MemoryHead | None]]:
        """See `Store.list_memories`; entries without a memory are removed on the way."""
        start = f"({before}" if before != NEWEST else "+"
        members: list[Any] = await self._retry(
            lambda redis: redis.zrange(
                INDEX_PREFIX + tag, start, "-", desc=True, bylex=True, offset=0, num=count
            )
        )
        positions = list(map(_text, members))
        starts = await self._fetch_starts(tenant, list(map(memory_id_at, positions)))
        ghosts = [place for place, start in zip(positions, starts, strict=True) if not start]
        if ghosts:
            entries = {(INDEX_PREFIX + tag, place) for place in ghosts}
            await self._unlist(tenant, list(map(memory_id_at, ghosts)), entries)
        return [
            (place, unpack_head(tenant, memory_id_at(place), start))
            for place, start in zip(positions, starts, strict=True)
        ]

    async def _read_heads(self, tenant: str, memory_ids: list[str]) -> list[MemoryHead | None]:
        starts = await self._fetch_starts(tenant, memory_ids)
        return [
            unpack_head(tenant, memory_id, start)
            for memory_id, start in zip(memory_ids, starts, strict=True)
        ]

    async def _fetch_starts(self, tenant: str, memory_ids: list[str]) -> list[bytes]:
        """Return as much of each record as holds its head; nothing where there is no record."""
        keys = [KEY_PREFIX + memory_key(tenant, memory_id) for memory_id in memory_ids]
        starts = await self._retry(
            lambda redis: _fetch_ranges(redis, dict.fromkeys(keys, HEAD_BYTES))
        )
        longer = {
            key: size
            for key, start in starts.items()
            if start and (size := head_size(start)) > len(start)
        }
        starts |= await self._retry(lambda redis: _fetch_ranges(redis, longer))
        return [starts[key] for key in keys]

    async def _unlist(self, tenant: str, memory_ids: list[str], entries: Collection[Entry]) -> None:
        """Remove entries of memories that are gone; add those of one that came back meanwhile."""
        await self._settle(tenant, memory_ids)  # first: the entries tell that it is to be done
        await self._retry(lambda redis: _change_index(redis, remove=entries))
        await self._list(tenant, memory_ids)

    async def _settle(self, tenant: str, memory_ids: list[str]) -> None:
        """Count what the records of some memories are now, with those that others wait for."""
        self._unsettled.setdefault(tenant, set()).update(memory_ids)

        async def settle_all(redis: Client) -> None:
            async with self._settling:
                waiting = self._unsettled.pop(tenant, set())
                records = {each: KEY_PREFIX + memory_key(tenant, each) for each in waiting}
                try:
                    if records:
                        await settle(redis, tenant, records)
                except BaseException:
                    self._unsettled.setdefault(tenant, set()).update(waiting)
                    raise

        await self._retry(settle_all)

    async def _list(self, tenant: str, memory_ids: list[str]) -> None:
        """Add the entries of those memories that are there."""
        heads = await self._read_heads(tenant, memory_ids)
        entries = _merge(_entries(head) for head in heads if head is not None)
        await self._retry(lambda redis: _change_index(redis, add=entries))

    async def usage(self, tenant: str) -> Usage:
        """See `Store.usage`."""
        return await self._retry(lambda redis: fetch_usage(redis, tenant))

    async def scan(self) -> AsyncIterator[tuple[str, str]]:
        """See `Store.scan`; a memory may come twice."""
        if self._redis is None:
            raise not_open("Redis")
        with translate_errors(FOREIGN_ERRORS, explain):
            async for key in self._redis.scan_iter(match=f"{KEY_PREFIX}*", count=SCANNED):
                yield split_key(_text(key).removeprefix(KEY_PREFIX))

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
        return None if record is None else _text(record)

    async def list_keys(self) -> list[str]:
        """See `Store.list_keys`."""
        return list(map(_text, await self._retry(lambda redis: redis.hvals(API_KEYS))))

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

    async def _list_all(self) -> None:
        """Fill the index and the usage from the records, unless that has been done."""
        version = await self._retry(lambda redis: redis.get(INDEXED))
        if version is not None and int(version) >= VERSION:
            return
        found: dict[str, list[str]] = {}
        async for tenant, memory_id in self.scan():
            found.setdefault(tenant, []).append(memory_id)
            if len(found[tenant]) == BATCH:
                await self._enter(tenant, found.pop(tenant))
        for tenant, memory_ids in found.items():
            await self._enter(tenant, memory_ids)
        await self._retry(lambda redis: redis.set(INDEXED, VERSION))

    async def _enter(self, tenant: str, memory_ids: list[str]) -> None:
        await self._list(tenant, memory_ids)
        await self._settle(tenant, memory_ids)

    async def _keep_sweeping(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await self.sweep()
            except StoreUnavailableError as error:
                logger.warning("expired memories could not be removed from lists: %s", error)

    async def sweep(self) -> None:
        """See `Store.sweep`: Redis itself has removed the memories, and their entries are left."""
        while True:
            expired = await self._retry(_fetch_expired)
            for member in map(_text, expired):
                await self._drop_expired(member)
            if len(expired) < BATCH:
                return

    async def _drop_expired(self, member: str) -> None:
        """Remove the entries that a member of EXPIRING names, unless the memory lives on.

        Its size is settled in either case.
        """
        position, *tags = member.split(" ")
        tenant, memory_id = tenant_of_tag(tags[0]), memory_id_at(position)
        (head,) = await self._read_heads(tenant, [memory_id])
        entries = {(EXPIRING, member)}
        if head is None or not head.lives_at(datetime.now(UTC)):
            entries |= {(INDEX_PREFIX + tag, position) for tag in tags}
        await self._unlist(tenant, [memory_id], entries)

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
            pipeline.set(key, record, nx=True, ex=PROVISIONAL_SECONDS)
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


def _entries(head: MemoryHead) -> dict[Entry, int]:
    """Return the entries of a memory in the index, with their scores."""
    entries = {(INDEX_PREFIX + tag, head.position): 0 for tag in head.tags}
    if head.expires_at is not None:
        entries |= _expiring(head, head.expires_at)
    return entries


def _merge(parts: Iterable[dict[Entry, int]]) -> dict[Entry, int]:
    """Return the entries of all parts."""
    return {entry: score for part in parts for entry, score in part.items()}


def _note(head: MemoryHead) -> dict[Entry, int]:
    """Return the entry that notes a change of a memory, until the change is over."""
    return _expiring(head, datetime.now(UTC) + timedelta(seconds=PROVISIONAL_SECONDS))


def _expiring(head: MemoryHead, moment: datetime) -> dict[Entry, int]:
    """Return the entry that has the sweep look at a memory after a moment."""
    member = " ".join((head.position, *sorted(head.tags)))
    return {(EXPIRING, member): to_milliseconds(moment)}


async def _change_index(
    redis: Client,
    *,
    add: Mapping[Entry, int] = MappingProxyType({}),
    remove: Collection[Entry] = (),
) -> None:
    """Add entries and remove others. May be repeated."""
    if not add and not remove:
        return
    async with redis.pipeline(transaction=False) as pipeline:
        for (key, member), score in add.items():
            pipeline.zadd(key, {member: score})
        for key, member in remove:
            pipeline.zrem(key, member)
        await pipeline.execute()


async def _fetch_expired(redis: Client) -> list[Any]:
    """Return members of EXPIRING whose time has come."""
    now = to_milliseconds(datetime.now(UTC))
    return await redis.zrange(EXPIRING, "-inf", now, byscore=True, offset=0, num=BATCH)


async def _fetch_ranges(redis: Client, sizes: Mapping[str, int]) -> dict[str, bytes]:
    """Return the first bytes of values, as many as `sizes` says for each key."""
    if not sizes:
        return {}
    async with redis.pipeline(transaction=False) as pipeline:
        for key, size in sizes.items():
            pipeline.getrange(key, 0, size - 1)
        return dict(zip(sizes, await pipeline.execute(), strict=True))


async def _delete(redis: Client, keys: Collection[str]) -> list[int]:
    """Delete keys; return 1 for each that was there, 0 for the others."""
    async with redis.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.delete(key)
        counts: list[int] = await pipeline.execute()
        return counts


async def _spend_token(redis: Client, key: str, per_second: int) -> float:
    """Take a token from a bucket; see `Store.take_token`."""
    for _ in range(SPENDING_ATTEMPTS):
        async with redis.pipeline(transaction=True) as pipeline:
            await pipeline.watch(key)
            stored = await pipeline.get(key)
            full_at, wait = spend_token(float(stored or 0), time.time(), per_second)
            if wait > 0:
                return wait
            pipeline.multi()  # type: ignore[no-untyped-call]
            pipeline.set(key, repr(full_at), px=BUCKET_MILLISECONDS)
            with suppress(WatchError):
                await pipeline.execute()
                return 0
    return 1 / per_second  # others took every token that came


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


def _text(value: bytes | str) -> str:
    """Return a value of Redis as text."""
    return value.decode() if isinstance(value, bytes) else value


async def _ignore(_error: Exception) -> None:
    """Do nothing about a failed attempt: redis-py has already closed its connection."""
