"""The Redis store behind a real sentinel: it follows the primary to where a fail-over makes one."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis.asyncio import Redis

from benchmarks.faults.redis_server import IN_MEMORY, RedisServer, free_port
from gradmem_core.errors import StoreUnavailableError
from service.stores import MemoryFilter, Store, create_store
from tests.service.stored import a_memory

pytestmark = pytest.mark.anyio

SERVICE = "gradmem"
AT_ONCE = (*IN_MEMORY, "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0")
FAIL_OVER_SECONDS = 60


@dataclass
class Watched:
    """A primary and its replica, which a sentinel watches."""

    primary: RedisServer
    replica: RedisServer
    url: str


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    folders = [tmp_path / name for name in ("primary", "replica", "sentinel")]
    for folder in folders:
        folder.mkdir()
    configuration = folders[2] / "sentinel.conf"
    with RedisServer(folders[0], AT_ONCE) as primary:
        follows = ("--replicaof", "127.0.0.1", str(primary.port))
        configuration.write_text(
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} 1\n"
            f"sentinel down-after-milliseconds {SERVICE} 500\n"
            f"sentinel failover-timeout {SERVICE} 5000\n"
        )
        with (
            RedisServer(folders[1], (*AT_ONCE, *follows)) as replica,
            RedisServer(folders[2], ("--sentinel",), configuration=configuration) as sentinel,
        ):
            await knows_the_replica(sentinel)
            addresses = f"127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}"  # the first is down
            yield Watched(primary, replica, f"redis+sentinel://{addresses}/{SERVICE}")


async def knows_the_replica(sentinel: RedisServer) -> None:
    async with Redis.from_url(sentinel.url, protocol=2) as client, asyncio.timeout(30):
        while True:
            replicas = await client.sentinel_slaves(SERVICE)
            if any(each.get("master-link-status") == "ok" for each in replicas):
                return
            await asyncio.sleep(0.1)


async def test_the_store_follows_the_primary(watched: Watched) -> None:
    old, new = a_memory(), a_memory()
    async with create_store(watched.url) as store:
        await store.put(old)
        async with Redis.from_url(watched.primary.url) as client:
            assert await client.wait(1, 10_000) == 1
        watched.primary.stop()
        with pytest.raises(StoreUnavailableError):
            await store.put(a_memory())
        await goes_on(store)
        await store.put(new)
        for memory in (old, new):
            assert await store.get(memory.tenant, memory.memory_id) == memory
        await store.delete(old.tenant, old.memory_id)
        listed = await store.list_memories(new.tenant, MemoryFilter(), limit=10)
        assert [head.memory_id for head in listed.memories] == [new.memory_id]
    async with Redis.from_url(watched.replica.url) as client:
        assert (await client.info("replication"))["role"] == "master"


async def goes_on(store: Store) -> None:
    async with asyncio.timeout(FAIL_OVER_SECONDS):
        while True:
            try:
                await store.probe()
            except StoreUnavailableError:
                await asyncio.sleep(0.2)
            else:
                return


async def test_more_operations_than_connections_wait(watched: Watched) -> None:
    async with create_store(watched.url) as store:
        await asyncio.gather(*(store.put(a_memory()) for _ in range(100)))


async def test_a_service_that_no_sentinel_knows_is_named(watched: Watched) -> None:
    store = create_store(watched.url.replace(SERVICE, "other"))
    with pytest.raises(StoreUnavailableError, match="do not know the service"):
        await store.open()
