"""The usage of the stores by tenants, and quotas."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from benchmarks.faults.redis_server import RedisServer
from gradmem_core.errors import MemoryNotFoundError, QuotaError, StoreUnavailableError
from gradmem_core.tenants import DEFAULT_TENANT
from service.stores import (
    MemoryExistsError,
    MemoryFilter,
    Quota,
    Store,
    StoredMemory,
    Usage,
    create_store,
)
from service.stores import redis as redis_store
from service.stores.base import PROBE_TENANT
from service.stores.record_format import pack
from service.stores.redis import RedisStore
from service.stores.redis_index import KEY_PREFIX, RedisIndex
from service.stores.redis_records import RunCommands
from service.stores.redis_usage import USAGE_PREFIX
from service.stores.sqlite import SqliteStore
from tests.service.stored import a_memory, soon

pytestmark = pytest.mark.anyio

TENANT = "acme"


@pytest.fixture(params=["sqlite", "redis"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/memories.db"
    return str(request.getfixturevalue("own_redis").url)


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    async with create_store(store_url) as opened:
        yield opened


def sum_of(*memories: StoredMemory) -> Usage:
    return Usage(len(memories), sum(len(pack(memory)) for memory in memories))


def of_acme(blob: bytes = b"blob", **fields: object) -> StoredMemory:
    return a_memory(blob, tenant=TENANT, **fields)


SIZE = len(pack(of_acme()))


async def test_usage_is_what_the_records_are(store: Store) -> None:
    assert await store.usage(TENANT) == Usage()
    one, two = of_acme(), of_acme(blob=bytes(5000), expires_at=soon(600))
    for memory in (one, two, a_memory(), a_memory(tenant="acme-2")):
        await store.put(memory)
    with pytest.raises(MemoryExistsError):
        await store.put(replace(one, blob=bytes(999)))
    assert await store.usage(TENANT) == sum_of(one, two)
    many = [of_acme(), one, of_acme()]
    assert await store.put_many(many) == [True, False, True]
    assert await store.usage(TENANT) == sum_of(two, *many)
    await store.delete_many(TENANT, [many[0].memory_id, many[2].memory_id])
    assert await store.usage(DEFAULT_TENANT) == Usage(1, len(pack(a_memory())))
    longer = replace(one, blob=bytes(3000), name="a name")
    assert await store.replace(one, longer)
    assert not await store.replace(one, replace(one, blob=bytes(9000)))
    assert await store.usage(TENANT) == sum_of(longer, two)
    everything = [longer, two, a_memory(), a_memory(tenant="acme-2")]
    assert await store.total_usage() == sum_of(*everything)
    shorter = replace(two, blob=b"", expires_at=None)
    assert await store.replace(two, shorter)
    assert await store.usage(TENANT) == sum_of(longer, shorter)
    await store.delete_many(TENANT, [one.memory_id, "0" * 32, two.memory_id])
    assert await store.usage(TENANT) == Usage()


async def test_what_expired_or_was_deleted_gives_its_room_back(store: Store) -> None:
    quota = Quota(memories=2)
    lasting = of_acme()
    await store.put(of_acme(expires_at=soon(0.5)), quota)
    await store.put(lasting, quota)
    with pytest.raises(QuotaError, match="has 2 memories and may have 2; delete some") as refused:
        await store.put(of_acme(), quota)
    assert refused.value.limit == 2
    await asyncio.sleep(0.6)
    await store.check_room(TENANT, quota, Usage(1))
    await store.put(of_acme(), quota)
    with pytest.raises(QuotaError):
        await store.check_room(TENANT, quota, Usage(1))
    await store.delete(TENANT, lasting.memory_id)
    await store.put(of_acme(), quota)
    assert await store.usage(TENANT) == Usage(2, 2 * SIZE)


async def test_a_refused_memory_leaves_nothing(store: Store) -> None:
    refused = of_acme(blob=bytes(500))
    with pytest.raises(QuotaError, match=f"may have {SIZE}, and this would add at least"):
        await store.put(refused, Quota(bytes=SIZE))
    with pytest.raises(MemoryNotFoundError):
        await store.get(TENANT, refused.memory_id)
    assert not (await store.list_memories(TENANT, MemoryFilter(), limit=9)).memories
    assert await store.usage(TENANT) == Usage()


async def test_only_growth_is_refused(store: Store) -> None:
    memory = of_acme()
    await store.put(memory)
    full = Quota(memories=0, bytes=SIZE)
    with pytest.raises(QuotaError):
        await store.replace(memory, replace(memory, blob=memory.blob + b"x"), full)
    assert await store.get(TENANT, memory.memory_id) == memory
    shorter = replace(memory, blob=b"")
    assert await store.replace(memory, shorter, Quota(memories=0, bytes=0))
    with pytest.raises(MemoryExistsError):  # an import that is repeated
        await store.put(shorter, Quota(memories=0, bytes=0))
    assert await store.usage(TENANT) == sum_of(shorter)


async def test_many_at_once_stay_within_the_quota(store: Store, store_url: str) -> None:
    """Also where two services write, and some memories are deleted meanwhile."""
    quota, stored = Quota(memories=10), list[StoredMemory]()

    async def put(store: Store, memory: StoredMemory) -> None:
        with suppress(QuotaError):
            await store.put(memory, quota)
            stored.append(memory)

    async with create_store(store_url) as other:
        for _ in range(2):
            await asyncio.gather(*(put(each, of_acme()) for each in [store, other] * 10))
            assert 1 <= len(stored) <= 10
            assert await store.usage(TENANT) == sum_of(*stored)
            gone, stored[:5] = stored[:5], []
            await asyncio.gather(
                *(put(store, of_acme()) for _ in range(5)),
                *(other.delete(TENANT, memory.memory_id) for memory in gone),
            )
    assert await store.usage(TENANT) == sum_of(*stored)
    assert len(stored) <= 10


async def test_an_older_store_is_counted_when_it_is_opened(store_url: str, tmp_path: Path) -> None:
    memories = [of_acme() for _ in range(3)]
    async with create_store(store_url) as store:
        for memory in memories:
            await store.put(memory)
    if store_url.startswith("redis"):
        async with redis.asyncio.Redis.from_url(store_url) as client:
            await client.delete(*await client.keys(f"{USAGE_PREFIX}*"))
            await client.set("gradmem:indexed", 1)
    else:
        connection = sqlite3.connect(tmp_path / "memories.db")
        connection.executescript(
            "DROP TRIGGER memories_counted; DROP TRIGGER memories_resized;"
            "DROP TRIGGER memories_uncounted; DROP TABLE usage; PRAGMA user_version = 1"
        )
        connection.close()
    async with create_store(store_url) as store:
        assert await store.usage(TENANT) == await store.total_usage() == sum_of(*memories)


async def test_the_total_leaves_out_what_is_the_services_own(store: Store) -> None:
    await store.put(of_acme())
    await store.put(a_memory(tenant=PROBE_TENANT))
    assert await store.total_usage() == sum_of(of_acme())


# Redis, where records and their sizes are changed one after the other


class EndingIndex(RedisIndex):
    """An index whose process ends before it settles, so to say.

    Args:
        retry: See `RedisIndex`.
        end_at: Ends at a step, where that is the last one.
    """

    def __init__(self, retry: RunCommands, end_at: Callable[[str], None]) -> None:
        super().__init__(retry)
        self._end_at = end_at

    async def settle(self, tenant: str, memory_ids: list[str]) -> None:
        self._end_at("not counted")
        await super().settle(tenant, memory_ids)


class Ending(RedisStore):
    """A store whose process ends at one of its steps, so to say."""

    last = ""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._index = EndingIndex(self._retry, self._end_at)

    def _end_at(self, step: str) -> None:
        if step == self.last:
            raise asyncio.CancelledError

    async def _count(self, *arguments: Any) -> None:
        await super()._count(*arguments)
        self._end_at("counted")

    def _withdraw(self, memory: StoredMemory) -> None:
        if not self.last:
            super()._withdraw(memory)


@pytest.mark.parametrize("change", ["put", "replace", "delete"])
async def test_a_change_that_ended_in_between_is_put_right(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(redis_store, "PROVISIONAL_SECONDS", 1)
    memory, left = of_acme(), of_acme()
    longer = replace(memory, blob=bytes(999))
    async with Ending(own_redis.url) as store:
        for each in (memory, left):
            await store.put(each)

        async def make_change() -> None:
            match change:
                case "put":
                    await store.put(of_acme())
                case "replace":
                    await store.replace(memory, longer)
                case "delete":
                    await store.delete(TENANT, memory.memory_id)

        store.last = "counted" if change == "put" else "not counted"
        with pytest.raises(asyncio.CancelledError):
            await make_change()
        store.last = ""
        expected = {"put": [memory, left], "replace": [longer, left], "delete": [left]}[change]
        assert await store.usage(TENANT) != sum_of(*expected)
        await asyncio.sleep(1.2)
        await store.sweep()
        assert await store.usage(TENANT) == sum_of(*expected)


async def test_a_change_that_is_stored_is_confirmed_although_it_is_not_counted(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "PROVISIONAL_SECONDS", 1)

    async def fail(*_: object) -> None:
        raise StoreUnavailableError("the reply is lost")

    async with RedisStore(own_redis.url) as store:
        memory = of_acme()
        longer = replace(memory, blob=bytes(999))
        await store.put(memory)
        monkeypatch.setattr(store._index, "settle", fail)
        assert await store.replace(memory, longer)
        monkeypatch.undo()
        await asyncio.sleep(1.2)
        await store.sweep()
        assert await store.usage(TENANT) == sum_of(longer)


async def test_a_full_redis_gives_room_back(own_redis: RedisServer) -> None:
    """Memories deleted while nothing can be stored are counted off as soon as that is possible."""
    async with (
        RedisStore(own_redis.url) as store,
        redis.asyncio.Redis.from_url(own_redis.url) as client,
    ):
        memory, left = of_acme(), of_acme()
        for each in (memory, left):
            await store.put(each)
        await client.config_set("maxmemory", "1")
        await store.delete(TENANT, memory.memory_id)
        await client.config_set("maxmemory", "0")
        await store.list_memories(TENANT, MemoryFilter(), limit=9)
        assert await store.usage(TENANT) == sum_of(left)


async def test_settling_at_the_same_time_counts_right(own_redis: RedisServer) -> None:
    async with RedisStore(own_redis.url) as one, RedisStore(own_redis.url) as two:
        memory = of_acme()
        await one.put(memory)

        async def grow(store: RedisStore) -> None:
            for _ in range(20):
                old = await store.get(TENANT, memory.memory_id)
                with suppress(StoreUnavailableError):
                    await store.replace(old, replace(old, blob=old.blob + b"x"))

        await asyncio.gather(*(grow(store) for store in (one, two) for _ in range(3)))
        assert await one.usage(TENANT) == sum_of(await one.get(TENANT, memory.memory_id))


async def test_a_memory_is_not_counted_twice(own_redis: RedisServer) -> None:
    """As where a process ended before a memory lasted, and another one puts it again."""
    async with (
        Ending(own_redis.url) as store,
        redis.asyncio.Redis.from_url(own_redis.url) as client,
    ):
        memory = of_acme()
        store.last = "counted"
        with pytest.raises(asyncio.CancelledError):
            await store.put(memory)
        store.last = ""
        await client.delete(KEY_PREFIX + memory.key)  # it has expired
        assert await store.put_once(replace(memory, blob=bytes(100)))
        assert await store.usage(TENANT) == sum_of(replace(memory, blob=bytes(100)))


async def test_a_probe_is_counted_for_nobody(own_redis: RedisServer) -> None:
    async with (
        RedisStore(own_redis.url) as store,
        redis.asyncio.Redis.from_url(own_redis.url) as client,
    ):
        await store.probe()
        assert await client.keys(f"{USAGE_PREFIX}*") == []
        assert await client.keys(f"{KEY_PREFIX}*") == []


# SQLite


async def test_every_change_of_the_table_is_counted(tmp_path: Path) -> None:
    """Also one from elsewhere."""
    path = tmp_path / "memories.db"
    memories = [of_acme() for _ in range(3)]
    async with SqliteStore(path) as store:
        for memory in memories:
            await store.put(memory)
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("DELETE FROM memories WHERE key = ?", (memories[0].key,))
        connection.execute("UPDATE memories SET record = zeroblob(10) WHERE key > ''")
        connection.close()
        assert await store.usage(TENANT) == Usage(2, 20)
