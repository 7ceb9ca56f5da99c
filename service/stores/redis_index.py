"""The index of lists in Redis, and what tenants have by it.

Entries of a memory come before it is complete, and go after it. Those left behind are removed when
a list meets them, or by the sweep. Usage is settled after each change, see redis_usage.py.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, TypeAlias

from gradmem_core.tenants import OWN_PREFIX
from service.stores.heads import (
    MemoryHead,
    memory_id_at,
    memory_key,
    tenant_of_tag,
)
from service.stores.record_format import head_size, unpack_head
from service.stores.redis_client import Client, fetch_positions, to_text
from service.stores.redis_records import RunCommands, to_milliseconds
from service.stores.redis_usage import TENANTS, settle

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
VERSION = 3
BATCH = 500
"Memories that one step of a sweep, or of filling the index, goes through."
HEAD_BYTES = 1024
"Bytes of a record that are fetched for its head; more where that is larger."


class RedisIndex:
    """The index of a Redis store.

    Args:
        retry: Sends commands that may be repeated, and repeats them.
    """

    def __init__(self, retry: RunCommands) -> None:
        self._retry = retry
        self._settling = asyncio.Lock()
        """Held while usage is settled: a service's own requests would only upset each other's
        transactions. A settlement takes two connections."""
        self._unsettled: dict[str, set[str]] = {}
        "Ids of memories whose sizes are to be settled, by their tenants."

    def open(self) -> None:
        """Begin in the event loop that runs now."""
        self._settling = asyncio.Lock()

    async def begin_changes(self, memories: Collection[MemoryHead], seconds: float) -> None:
        """List memories, and note that they are being changed.

        Args:
            memories: The memories.
            seconds: Time after which the sweep puts right what an unfinished change left.
        """
        tenants = {memory.tenant for memory in memories}
        entries = _merge(map(_entries, memories)) | _notes(memories, seconds) | _counted(tenants)
        await self._retry(lambda redis: _change_index(redis, add=entries))

    async def note_changes(self, memories: Collection[MemoryHead], seconds: float) -> None:
        """Note that memories are being changed; see `begin_changes`."""
        notes = _notes(memories, seconds)
        await self._retry(lambda redis: _change_index(redis, add=notes))

    async def end_changes(
        self, memories: Collection[MemoryHead], *, replaced: Collection[MemoryHead] = ()
    ) -> None:
        """Take back the notes of changes, and the entries that only replaced memories had."""
        entries, notes = _merge(map(_entries, memories)), set(map(_note, memories))
        stale = _merge(map(_entries, replaced)).keys() - entries.keys()
        lasting = {entry: entries[entry] for entry in notes if entry in entries}
        remove = {*stale, *notes} - lasting.keys()
        await self._retry(lambda redis: _change_index(redis, add=lasting, remove=remove))

    async def remove(
        self, tenant: str, memory_ids: list[str], heads: Collection[MemoryHead]
    ) -> None:
        """Remove memories that were deleted, by the heads that could be read."""
        entries = {*_merge(map(_entries, heads)), *map(_note, heads)}
        await self._unlist(tenant, memory_ids, entries)

    async def walk(
        self, tenant: str, tag: str, before: str, count: int
    ) -> list[tuple[str, MemoryHead | None]]:
        """Return the next positions under a tag, with their heads; see `Store.list_memories`.

        Entries without a memory are removed on the way.
        """
        positions = await self._retry(
            lambda redis: fetch_positions(redis, INDEX_PREFIX + tag, before, count)
        )
        starts = await self._fetch_starts(tenant, list(map(memory_id_at, positions)))
        ghosts = [place for place, start in zip(positions, starts, strict=True) if not start]
        if ghosts:
            entries = {(INDEX_PREFIX + tag, place) for place in ghosts}
            await self._unlist(tenant, list(map(memory_id_at, ghosts)), entries)
        return [
            (place, unpack_head(tenant, memory_id_at(place), start))
            for place, start in zip(positions, starts, strict=True)
        ]

    async def read_heads(self, tenant: str, memory_ids: list[str]) -> list[MemoryHead | None]:
        """Return the heads of memories; None for each that is not there or damaged."""
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
        await self.settle(tenant, memory_ids)  # first: the entries tell that it is to be done
        await self._retry(lambda redis: _change_index(redis, remove=entries))
        await self._list(tenant, memory_ids)

    async def settle(self, tenant: str, memory_ids: list[str]) -> None:
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
        heads = await self.read_heads(tenant, memory_ids)
        entries = _merge(_entries(head) for head in heads if head is not None)
        await self._retry(lambda redis: _change_index(redis, add=entries))

    async def fill(self, memories: AsyncIterator[tuple[str, str]]) -> None:
        """Enter all memories, by tenant and id, unless that has been done."""
        version = await self._retry(lambda redis: redis.get(INDEXED))
        if version is not None and int(version) >= VERSION:
            return
        found: dict[str, list[str]] = {}
        async for tenant, memory_id in memories:
            found.setdefault(tenant, []).append(memory_id)
            if len(found[tenant]) == BATCH:
                await self._enter(tenant, found.pop(tenant))
        for tenant, memory_ids in found.items():
            await self._enter(tenant, memory_ids)
        await self._retry(lambda redis: redis.set(INDEXED, VERSION))

    async def _enter(self, tenant: str, memory_ids: list[str]) -> None:
        await self._retry(lambda redis: _change_index(redis, add=_counted([tenant])))
        await self._list(tenant, memory_ids)
        await self.settle(tenant, memory_ids)

    async def sweep(self) -> None:
        """Remove the entries of memories that have expired, which Redis itself has removed."""
        while True:
            expired = await self._retry(_fetch_expired)
            by_tenant: dict[str, list[str]] = {}
            for member in map(to_text, expired):
                _, tag, *_ = member.split(" ")
                by_tenant.setdefault(tenant_of_tag(tag), []).append(member)
            for tenant, members in by_tenant.items():
                await self._drop_expired(tenant, members)
            if len(expired) < BATCH:
                return

    async def _drop_expired(self, tenant: str, members: list[str]) -> None:
        """Remove the entries that members of EXPIRING name, of memories that do not live on.

        Their sizes are settled in either case.
        """
        noted = [member.split(" ") for member in members]
        memory_ids = [memory_id_at(position) for position, *_ in noted]
        heads = await self.read_heads(tenant, memory_ids)
        now = datetime.now(UTC)
        entries = {(EXPIRING, member) for member in members}
        for head, (position, *tags) in zip(heads, noted, strict=True):
            if head is None or not head.lives_at(now):
                entries |= {(INDEX_PREFIX + tag, position) for tag in tags}
        await self._unlist(tenant, memory_ids, entries)


def _entries(head: MemoryHead) -> dict[Entry, int]:
    """Return the entries of a memory in the index, with their scores."""
    entries = {(INDEX_PREFIX + tag, head.position): 0 for tag in head.tags}
    if head.expires_at is not None:
        entries[_note(head)] = to_milliseconds(head.expires_at)
    return entries


def _counted(tenants: Iterable[str]) -> dict[Entry, int]:
    """Return the entries by which the usage of tenants is summed; the service's own is not."""
    return {(TENANTS, tenant): 0 for tenant in tenants if not tenant.startswith(OWN_PREFIX)}


def _merge(parts: Iterable[dict[Entry, int]]) -> dict[Entry, int]:
    """Return the entries of all parts."""
    return {entry: score for part in parts for entry, score in part.items()}


def _note(head: MemoryHead) -> Entry:
    """Return the entry that has the sweep look at a memory after a moment, its score."""
    return EXPIRING, " ".join((head.position, *sorted(head.tags)))


def _notes(heads: Collection[MemoryHead], seconds: float) -> dict[Entry, int]:
    """Return the entries that note changes of memories, until the changes are over."""
    due = to_milliseconds(datetime.now(UTC) + timedelta(seconds=seconds))
    return {_note(head): due for head in heads}


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
