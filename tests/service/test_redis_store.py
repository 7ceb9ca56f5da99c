"""The Redis store beyond the behaviour of every store: its own expiry, outages, recovery."""

import asyncio
import signal
import time
from dataclasses import replace

import pytest
import redis.exceptions

from gradmem_core.errors import StoreUnavailableError
from service.stores import Store, StoredMemory, create_store, new_memory_id
from service.stores import redis as redis_store
from service.stores.redis import KEY_PREFIX
from tests.redis_server import RedisServer
from tests.service.stored import a_memory, soon

pytestmark = pytest.mark.anyio


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divide every time limit of the store by ten."""
    monkeypatch.setattr(redis_store, "DEADLINE_SECONDS", redis_store.DEADLINE_SECONDS / 10)
    monkeypatch.setattr(redis_store, "SOCKET_SECONDS", redis_store.SOCKET_SECONDS / 10)


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
        await asyncio.gather(*(store.ping() for _ in range(5)), store.put(memory))
        own_redis.stop()
        await expect_quick_errors(store, memory)
        own_redis.start()
        # The first operation after the outage is a put, which is not repeated.
        await store.put(memory)
        assert await store.get(memory.memory_id) == memory


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
        assert own_redis.process is not None
        own_redis.process.send_signal(signal.SIGSTOP)
        await expect_quick_errors(store, memory)
        own_redis.process.send_signal(signal.SIGCONT)
        assert await store.get(memory.memory_id) == memory


async def expect_quick_errors(store: Store, memory: StoredMemory) -> None:
    operations = (
        store.put(a_memory()),
        store.get(memory.memory_id),
        store.delete(new_memory_id()),
        store.replace(memory, memory),
        store.ping(),
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
        await store.ping()


async def test_a_wrong_password_is_unavailable_and_not_repeated(redis_server: str) -> None:
    url = redis_server.replace("redis://", "redis://me:hunter2@")
    with pytest.raises(StoreUnavailableError) as caught:
        await create_store(url).open()
    assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"


@pytest.mark.usefixtures("impatient")
async def test_tls_to_a_server_without_tls_is_unavailable(redis_server: str) -> None:
    started = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        await create_store(redis_server.replace("redis://", "rediss://")).open()
    assert time.monotonic() - started < redis_store.DEADLINE_SECONDS + 1


async def test_a_full_redis_is_unavailable(own_redis: RedisServer) -> None:
    async with (
        create_store(own_redis.url) as store,
        redis.asyncio.Redis.from_url(own_redis.url) as client,
    ):
        old = a_memory()
        await store.put(old)
        await client.config_set("maxmemory", "1")
        for operation in (store.put(a_memory()), store.replace(old, replace(old, blob=b"new"))):
            with pytest.raises(StoreUnavailableError):
                await operation
        assert await store.get(old.memory_id) == old
