"""The Redis store beyond the behaviour of every store: its own expiry, outages, recovery."""

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis.exceptions

from benchmarks.faults.redis_server import APPEND_ONLY, RedisServer, free_port
from gradmem_core.errors import StoreFullError, StoreUnavailableError
from gradmem_core.tenants import DEFAULT_TENANT
from service.stores import (
    MemoryFilter,
    Store,
    StoredMemory,
    Usage,
    WholeJob,
    create_store,
    new_memory_id,
    redis_client,
)
from service.stores import redis as redis_store
from service.stores.record_format import pack
from service.stores.redis_errors import COMMANDS
from service.stores.redis_index import KEY_PREFIX
from service.stores.redis_records import GROUP_PREFIX
from tests.service.stored import SECRET, a_memory, fill, soon
from tests.service.test_job_stores import a_job, add, finish, take

pytestmark = pytest.mark.anyio


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divide every time limit of the store by ten."""
    monkeypatch.setattr(redis_store, "DEADLINE_SECONDS", redis_store.DEADLINE_SECONDS / 10)
    monkeypatch.setattr(redis_client, "SOCKET_SECONDS", redis_client.SOCKET_SECONDS / 10)


async def test_redis_removes_an_expired_memory(redis_server: str) -> None:
    memory = a_memory(expires_at=soon(60))
    async with (
        create_store(redis_server) as store,
        redis.asyncio.Redis.from_url(redis_server) as client,
    ):
        await store.put(memory)
        assert memory.expires_at is not None
        left = await client.pttl(KEY_PREFIX + memory.memory_id)
        assert 59_000 < left <= 60_000


async def test_no_entry_stays_of_memories_that_are_gone(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "SWEEP_SECONDS", 0.2)
    memories = [a_memory(expires_at=end) for end in (None, soon(60), soon(1), soon(1))]
    memories.append(a_memory(tenant="acme", expires_at=soon(1)))
    async with (
        create_store(own_redis.url) as store,
        redis.asyncio.Redis.from_url(own_redis.url) as client,
    ):
        for memory in memories:
            await store.put(memory)
        await store.delete(memories[0].tenant, memories[0].memory_id)
        await store.replace(memories[3], replace(memories[3], expires_at=None, metadata={}))
        await store.replace(memories[1], replace(memories[1], expires_at=soon(1), name="a name"))
        async with asyncio.timeout(20):
            while await client.keys("gradmem:expiring"):
                await asyncio.sleep(0.05)
        (key,) = await client.keys(f"{KEY_PREFIX}*")
        assert key == (KEY_PREFIX + memories[3].key).encode()
        indexes = await client.keys("gradmem:index:*")
        assert [await client.zcard(index) for index in indexes] == [1, 1]
        assert await store.usage("acme") == Usage()


async def test_a_list_removes_entries_without_a_memory(own_redis: RedisServer) -> None:
    kept, lost = a_memory(), a_memory()
    async with (
        create_store(own_redis.url) as store,
        redis.asyncio.Redis.from_url(own_redis.url) as client,
    ):
        for memory in (kept, lost):
            await store.put(memory)
        await client.delete(KEY_PREFIX + lost.key)
        for _ in range(2):
            listed = await store.list_memories(DEFAULT_TENANT, MemoryFilter(), limit=10)
            assert [head.memory_id for head in listed.memories] == [kept.memory_id]
        assert await client.zcard("gradmem:index:" + MemoryFilter().tag(DEFAULT_TENANT)) == 1


async def test_memories_from_before_the_index_are_listed(own_redis: RedisServer) -> None:
    memories = [a_memory(), a_memory(tenant="acme", expires_at=soon(60))]
    async with redis.asyncio.Redis.from_url(own_redis.url) as client:
        for memory in memories:
            await client.set(KEY_PREFIX + memory.key, pack(memory))
    async with create_store(own_redis.url) as store:
        for memory in memories:
            listed = await store.list_memories(memory.tenant, MemoryFilter(), limit=10)
            assert [head.key for head in listed.memories] == [memory.key]


async def test_a_group_of_records_stays_as_long_as_the_last_of_them(redis_server: str) -> None:
    group = f"{new_memory_id()}:"
    async with (
        create_store(redis_server) as store,
        redis.asyncio.Redis.from_url(redis_server) as client,
    ):
        expired = [soon(0.1 + number / 1000) for number in range(5)]
        ends = [*expired, *(soon(60 + number) for number in range(10)), soon(0.1)]
        made = (
            store.records.create(f"{group}{number}", b"a", end) for number, end in enumerate(ends)
        )
        await asyncio.gather(*made)
        assert await client.pttl(GROUP_PREFIX + group[:-1]) > 68_000
        await asyncio.sleep(0.2)
        assert await store.records.count(group) == 10
        await store.records.create(f"{group}last", b"a", soon(60))
        assert await client.zcard(GROUP_PREFIX + group[:-1]) == 11  # the expired are forgotten


async def test_a_job_that_ends_while_it_is_fetched_is_not_due_before(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with create_store(own_redis.url) as store:
        job = await add(store, a_job(1, webhook=b"sealed"))
        task = await take(store)
        jobs: Any = store.jobs
        retry, calls = jobs._whole._retry, []

        async def retry_and_finish(command: Any) -> Any:
            reply = await retry(command)
            calls.append(reply)
            if len(calls) == 2:  # the whole hash has been read
                await finish(store, task)
            return reply

        monkeypatch.setattr(jobs._whole, "_retry", retry_and_finish)
        before = await store.jobs.fetch_whole(job.tenant, job.job_id)
        after = await store.jobs.fetch_whole(job.tenant, job.job_id)
    assert before is not None
    assert after is not None
    assert (before.job.ended_at, before.due_at) == (None, None)
    assert after.job.ended_at is not None
    assert after.due_at is not None


async def test_a_replaced_memory_keeps_its_expiry(redis_server: str) -> None:
    ends, stays = a_memory(expires_at=soon(60)), a_memory()
    async with (
        create_store(redis_server) as store,
        redis.asyncio.Redis.from_url(redis_server) as client,
    ):
        for old in (ends, stays):
            await store.put(old)
            assert await store.replace(old, replace(old, blob=b"other pages"))
        assert 59_000 < await client.pttl(KEY_PREFIX + ends.memory_id) <= 60_000
        assert await client.pttl(KEY_PREFIX + stays.memory_id) == -1


async def test_the_store_recovers_from_an_outage(own_redis: RedisServer) -> None:
    async with create_store(own_redis.url) as store:
        memory = a_memory()
        await asyncio.gather(*(store.probe() for _ in range(5)), store.put(memory))
        own_redis.stop()
        await expect_quick_errors(store, memory)
        own_redis.start()
        # The first operation after the outage is a put, which is not repeated.
        await store.put(memory)
        assert await store.get(memory.tenant, memory.memory_id) == memory


async def test_a_restart_between_two_puts_goes_unnoticed(own_redis: RedisServer) -> None:
    async with create_store(own_redis.url) as store:
        await store.put(a_memory())
        own_redis.stop()
        own_redis.start()
        await asyncio.sleep(0.05)  # the event loop learns that the connection was closed
        await store.put(a_memory())


@pytest.mark.usefixtures("impatient")
async def test_a_redis_that_hangs_is_unavailable(own_redis: RedisServer) -> None:
    async with create_store(own_redis.url) as store:
        memory = a_memory()
        await store.put(memory)
        own_redis.pause()
        await expect_quick_errors(store, memory)
        own_redis.go_on()
        assert await store.get(memory.tenant, memory.memory_id) == memory


async def expect_quick_errors(store: Store, memory: StoredMemory) -> None:
    operations = (
        store.put(a_memory()),
        store.get(memory.tenant, memory.memory_id),
        store.delete(DEFAULT_TENANT, new_memory_id()),
        store.replace(memory, memory),
        store.probe(),
    )
    started = time.monotonic()
    outcomes = await asyncio.gather(*operations, return_exceptions=True)
    assert time.monotonic() - started < redis_store.DEADLINE_SECONDS + 1
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailableError] * 5


async def test_a_store_without_its_redis_does_not_open(own_redis: RedisServer) -> None:
    own_redis.stop()
    store = create_store(own_redis.url)
    with pytest.raises(StoreUnavailableError):
        await store.open()
    own_redis.start()
    async with store:
        await store.probe()


@pytest.mark.usefixtures("impatient")
async def test_what_an_unfinished_put_stored_does_not_stay(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "PROVISIONAL_SECONDS", 3)
    acknowledged: set[bytes] = set()

    async def put(memory: StoredMemory) -> None:
        with suppress(StoreUnavailableError):
            await store.put(memory)
            acknowledged.add(f"{KEY_PREFIX}{memory.memory_id}".encode())

    async with (
        create_store(own_redis.url) as store,
        redis.asyncio.Redis.from_url(own_redis.url) as client,
    ):
        for pause in (0.0, 0.001, 0.002, 0.004, 0.008):
            puts = [asyncio.create_task(put(a_memory())) for _ in range(10)]
            await asyncio.sleep(pause)
            own_redis.pause()
            await asyncio.gather(*puts)
            own_redis.go_on()
        assert len(acknowledged) < 50
        async with asyncio.timeout(20):
            while set(await client.keys(f"{KEY_PREFIX}*")) != acknowledged:
                await asyncio.sleep(0.05)


async def test_a_purge_removes_deleted_memories_from_the_append_only_file(tmp_path: Path) -> None:
    def is_on_disk() -> bool:
        return any(SECRET[:30] in file.read_bytes() for file in tmp_path.rglob("*.aof"))

    with RedisServer(tmp_path, APPEND_ONLY) as server:
        async with create_store(server.url) as store:
            memory = a_memory(SECRET)
            await store.put(memory)
            await store.delete(memory.tenant, memory.memory_id)
            assert is_on_disk()
            await store.purge()
            async with asyncio.timeout(30):
                while is_on_disk():
                    await asyncio.sleep(0.02)


# A cluster


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[list[RedisServer]]:
    """Two servers, each with half of the slots."""
    options = ("--save", "", "--cluster-enabled", "yes")
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    with (
        RedisServer(folders[0], options, port=port_of_a_node()) as first,
        RedisServer(folders[1], options, port=port_of_a_node()) as second,
    ):
        for server, slots in ((first, range(8192)), (second, range(8192, 16384))):
            await run_command(server, "CLUSTER", "ADDSLOTS", *slots)
        await run_command(first, "CLUSTER", "MEET", "127.0.0.1", second.port)
        async with asyncio.timeout(30):
            for server in (first, second):
                while (await run_command(server, "CLUSTER INFO"))["cluster_state"] != "ok":
                    await asyncio.sleep(0.05)
        yield [first, second]


def port_of_a_node() -> int:
    """Return a free port; nodes talk to each other on the one 10,000 above it.

    Neither is one that Linux gives to connections, which might take it before the node does.
    """
    while True:
        port = random.randrange(10_000, 22_000)
        with suppress(OSError), ExitStack() as stack:
            for taken in (port, port + 10_000):
                stack.enter_context(socket.create_server(("127.0.0.1", taken)))
            return port


async def run_command(server: RedisServer, *words: object) -> Any:
    async with redis.asyncio.Redis.from_url(server.url) as client:
        return await client.execute_command(*words)  # type: ignore[no-untyped-call]


async def test_the_store_runs_on_a_cluster(cluster: list[RedisServer]) -> None:
    url = cluster[0].url.removesuffix("/0").replace("redis://", "redis+cluster://")
    async with create_store(url) as store:
        memories = [a_memory() for _ in range(10)]
        for memory in memories:
            await store.put(memory)
        held = [await run_command(server, "KEYS", f"{KEY_PREFIX}*") for server in cluster]
        assert sum(map(len, held)) == 10
        assert all(held)
        listed = await store.list_memories(DEFAULT_TENANT, MemoryFilter(), limit=10)
        assert {head.key for head in listed.memories} == {memory.key for memory in memories}
        for memory in memories:
            assert await store.replace(memory, replace(memory, blob=b"new"))
            assert not await store.replace(memory, replace(memory, blob=b"other"))
            assert (await store.get(memory.tenant, memory.memory_id)).blob == b"new"
            await store.delete(memory.tenant, memory.memory_id)
        await store.probe()
        listed = await store.list_memories(DEFAULT_TENANT, MemoryFilter(), limit=10)
        assert not listed.memories


async def test_records_and_jobs_of_a_cluster_are_found(cluster: list[RedisServer]) -> None:
    url = cluster[0].url.removesuffix("/0").replace("redis://", "redis+cluster://")
    async with create_store(url) as store:
        keys = {f"a:b:{number}" for number in range(10)}
        for key in keys:
            assert await store.records.create(key, b"value", soon(60))
        assert {key async for key in store.records.scan()} == keys
        assert await store.records.count("a:b:") == 10
        whole = WholeJob(job=a_job(2), documents=[b"a", None], results=[None, b"b"])
        assert await store.jobs.put_whole(whole)
        names = [name async for name in store.jobs.scan()]
        assert names == [(whole.job.tenant, whole.job.job_id)]
        assert await store.jobs.fetch_whole(*names[0]) == whole


async def test_a_node_of_a_cluster_is_named(cluster: list[RedisServer]) -> None:
    async def put_many() -> None:
        async with create_store(cluster[0].url) as store:
            for _ in range(20):
                await store.put(a_memory())

    with pytest.raises(StoreUnavailableError, match=r"redis\+cluster://"):
        await put_many()


# Causes


async def expect_not_to_open(url: str, cause: str) -> None:
    with pytest.raises(StoreUnavailableError, match=cause) as caught:
        await create_store(url).open()
    assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"


async def test_a_wrong_password_is_named_and_not_repeated(redis_server: str) -> None:
    await expect_not_to_open(redis_server.replace("redis://", "redis://me:hunter2@"), "password")


async def test_tls_to_a_server_without_tls_is_named(
    redis_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_client, "SOCKET_SECONDS", 0.2)
    await expect_not_to_open(redis_server.replace("redis://", "rediss://"), "TLS")


async def test_a_missing_database_is_named(redis_server: str) -> None:
    await expect_not_to_open(redis_server.removesuffix("/0") + "/99", "no database of the number")


async def test_a_port_where_nothing_listens_is_named() -> None:
    await expect_not_to_open(f"redis://127.0.0.1:{free_port()}", "nothing listens")


async def test_an_unknown_host_is_named() -> None:
    await expect_not_to_open("redis://no-such-host.invalid", "host name")


async def test_an_eviction_policy_that_drops_memories_is_refused(own_redis: RedisServer) -> None:
    async with redis.asyncio.Redis.from_url(own_redis.url) as client:
        await client.config_set("maxmemory-policy", "allkeys-lru")
    await expect_not_to_open(own_redis.url, "maxmemory-policy allkeys-lru")
    async with create_store(own_redis.url, allow_eviction=True) as store:
        await store.probe()


@pytest.mark.parametrize(("policy", "safe"), [("allkeys-lru", False), ("volatile-lru", True)])
async def test_keys_are_not_left_to_a_policy_that_drops_them(
    own_redis: RedisServer, policy: str, safe: bool
) -> None:
    """Without its keys the service would be open after a restart."""
    async with redis.asyncio.Redis.from_url(own_redis.url) as client:
        await client.config_set("maxmemory-policy", policy)
        refused = pytest.raises(StoreUnavailableError, match=f"{policy}, which may drop API keys")
        async with create_store(own_redis.url, allow_eviction=True) as store:
            with nullcontext() if safe else refused:
                await store.save_key("0" * 16, "{}")
            await client.hset("gradmem:keys", "0" * 16, "{}")
        with nullcontext() if safe else refused:
            async with create_store(own_redis.url, allow_eviction=True):
                pass


async def test_a_full_redis_has_no_room_but_reads_and_deletes(own_redis: RedisServer) -> None:
    async with (
        create_store(own_redis.url) as store,
        redis.asyncio.Redis.from_url(own_redis.url) as client,
    ):
        old = a_memory()
        await store.put(old)
        await client.config_set("maxmemory", "1")
        for operation in (
            store.put(a_memory()),
            store.replace(old, replace(old, blob=b"new")),
            store.probe(),
        ):
            with pytest.raises(StoreFullError, match="maxmemory"):
                await operation
        assert await store.get(old.tenant, old.memory_id) == old
        await store.delete(old.tenant, old.memory_id)
    async with create_store(own_redis.url):  # a full Redis keeps no service from starting
        pass


async def put_large(store: Store) -> None:
    for _ in range(20):
        await store.put(a_memory(bytes(100_000)))


async def test_a_full_disk_under_redis_is_named(small_disk: Path) -> None:
    options = ("--save", "", "--appendonly", "yes", "--appendfsync", "everysec")
    with RedisServer(small_disk, options) as server:
        async with create_store(server.url) as store:
            memory = a_memory()
            await store.put(memory)
            fill(small_disk)
            with pytest.raises(StoreFullError, match="disk of its append-only file is full"):
                await put_large(store)
            assert await store.get(DEFAULT_TENANT, memory.memory_id) == memory


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"replicaof": "127.0.0.1 1", "replica-serve-stale-data": "yes"}, "read-only replica"),
        ({"min-replicas-to-write": "1"}, "too few replicas"),
    ],
)
async def test_a_redis_that_refuses_writes_says_why(
    own_redis: RedisServer, settings: dict[str, str], cause: str
) -> None:
    async with (
        create_store(own_redis.url) as store,
        redis.asyncio.Redis.from_url(own_redis.url) as client,
    ):
        for name, value in settings.items():
            if name == "replicaof":
                await client.replicaof(*value.split())
            else:
                await client.config_set(name, value)
        with pytest.raises(StoreUnavailableError, match=cause):
            await store.put(a_memory())
        with pytest.raises(StoreUnavailableError, match=cause):
            await store.probe()


async def test_the_named_commands_are_enough(own_redis: RedisServer) -> None:
    url = await add_user(own_redis, COMMANDS.split())
    async with create_store(url) as store:
        memory, lasting = a_memory(expires_at=soon(60)), a_memory()
        for stored in (memory, lasting):
            await store.put(stored)
            assert await store.replace(stored, replace(stored, blob=b"new"))
            await store.delete(stored.tenant, stored.memory_id)
        assert await store.records.create("a:b", b"value", soon(60))
        assert await store.records.count("a:") == 1
        assert await store.records.remove("a:b", b"value")
        await store.probe()


async def test_a_missing_permission_is_named_at_the_start(own_redis: RedisServer) -> None:
    for missing in COMMANDS.split():
        url = await add_user(own_redis, [name for name in COMMANDS.split() if name != missing])
        try:
            await expect_not_to_open(url, r"does not permit .*~gradmem:\* .*\+set")
        except pytest.fail.Exception:
            pytest.fail(f"the store opens without {missing}")


async def test_a_permission_that_lasting_memories_need_fails_the_probe(
    own_redis: RedisServer,
) -> None:
    url = await add_user(own_redis, COMMANDS.split())
    async with create_store(url) as store:
        await store.probe()
        await run_command(own_redis, "ACL", "SETUSER", "me", "-persist")
        with pytest.raises(StoreUnavailableError, match="does not permit"):
            await store.probe()


async def test_nothing_stays_of_the_attempts_at_the_start(own_redis: RedisServer) -> None:
    async with create_store(own_redis.url):
        assert await run_command(own_redis, "KEYS", "*") == [b"gradmem:indexed"]
        assert await run_command(own_redis, "GET", "gradmem:indexed") == b"3"


async def add_user(server: RedisServer, commands: list[str]) -> str:
    rules = ["on", ">hunter2", "~gradmem:*", *commands]
    await run_command(server, "ACL", "SETUSER", "me", "reset", *rules)
    return server.url.replace("redis://", "redis://me:hunter2@")
