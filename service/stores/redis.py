"""A store in Redis (6.2 or later), which several services can share."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff, NoBackoff
from redis.exceptions import (
    ChildDeadlockedError,
    IncorrectPolicyType,
    RedisClusterException,
    RedisError,
)

from service.stores.base import (
    MemoryExistsError,
    Store,
    StoredMemory,
    check_memory_id,
    not_found,
    not_open,
    pack,
    to_microseconds,
    translate_errors,
    unpack,
)

T = TypeVar("T")

# redis-py's own tree has four roots; OSError covers sockets and asyncio's timeout.
FOREIGN_ERRORS = (
    RedisError,
    RedisClusterException,
    ChildDeadlockedError,
    IncorrectPolicyType,
    OSError,
)
KEY_PREFIX = "gradmem:memory:"

DEADLINE_SECONDS = 5.0
"Longest time of an operation, connecting and retrying included."
SOCKET_SECONDS = 2.0
"Longest time to connect, to send, and to receive a reply."
RETRY_PAUSE_SECONDS = 0.05
"Pause between the two attempts of a read."
REPLACE = """
local current = redis.call("GET", KEYS[1])
if not current then return false end
if current ~= ARGV[1] then return 0 end
redis.call("SET", KEYS[1], ARGV[2], "KEEPTTL")
return 1
"""
"Compares and sets in one operation of the server; returns nil (missing), 0 (changed) or 1."
MAX_CONNECTIONS = 16
"Connections in the pool; further operations wait for one, within their deadline."


class RedisStore(Store):
    """A store that keeps each memory under one key, which Redis itself removes when it expires.

    Reads are retried once. Changes are sent only once: a retry after a lost reply would meet the
    effect of the first attempt and report that the memory exists, changed or is missing.

    Args:
        url: `redis://` or `rediss://` (TLS), as redis-py reads it.

    Raises:
        ValueError: The URL cannot be used. The message repeats no part of it.
    """

    def __init__(self, url: str) -> None:
        _connect(url)  # to refuse a bad URL now
        self._url = url
        self._redis: Redis | None = None

    async def open(self) -> None:
        """See `Store.open`."""
        self._redis = _connect(self._url)
        try:
            await self.ping()
        except BaseException:
            await self.close()
            raise

    async def put(self, memory: StoredMemory) -> None:
        """See `Store.put`."""
        # Rounded down, so that a memory never outlives its time.
        expires_at = (
            None if memory.expires_at is None else to_microseconds(memory.expires_at) // 1000
        )
        key, record = KEY_PREFIX + memory.memory_id, pack(memory)
        created = await self._run(lambda redis: redis.set(key, record, nx=True, pxat=expires_at))
        if not created:
            raise MemoryExistsError("a memory of this id exists")

    async def get(self, memory_id: str) -> StoredMemory:
        """See `Store.get`."""
        check_memory_id(memory_id)
        record = await self._retry(lambda redis: redis.get(KEY_PREFIX + memory_id))
        if record is None:
            raise not_found()
        memory = unpack(memory_id, record)
        # The clock of the server may be behind ours.
        if memory.expires_at is not None and memory.expires_at <= datetime.now(UTC):
            raise not_found()
        return memory

    async def replace(self, old: StoredMemory, new: StoredMemory) -> bool:
        """See `Store.replace`."""
        key = KEY_PREFIX + old.memory_id
        outcome = await self._run(lambda redis: redis.eval(REPLACE, 1, key, pack(old), pack(new)))
        if outcome is None:
            raise not_found()
        return bool(outcome)

    async def delete(self, memory_id: str) -> None:
        """See `Store.delete`."""
        check_memory_id(memory_id)
        if not await self._run(lambda redis: redis.delete(KEY_PREFIX + memory_id)):
            raise not_found()

    async def ping(self) -> None:
        """See `Store.ping`."""
        await self._retry(lambda redis: redis.ping())

    async def close(self) -> None:
        """See `Store.close`."""
        redis, self._redis = self._redis, None
        if redis is not None:
            with translate_errors("Redis", FOREIGN_ERRORS):
                await redis.aclose()

    async def _retry(self, command: Callable[[Redis], Awaitable[T]]) -> T:
        retry = Retry(ConstantBackoff(RETRY_PAUSE_SECONDS), retries=1)
        return await self._run(lambda redis: retry.call_with_retry(lambda: command(redis), _ignore))

    async def _run(self, command: Callable[[Redis], Awaitable[T]]) -> T:
        if self._redis is None:
            raise not_open("Redis")
        with translate_errors("Redis", FOREIGN_ERRORS):
            async with asyncio.timeout(DEADLINE_SECONDS):
                return await command(self._redis)


async def _ignore(_error: Exception) -> None:
    """Do nothing about a failed attempt: redis-py has already closed its connection."""


def _connect(url: str) -> Redis:
    """Return a client, which connects when it is first used."""
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=DEADLINE_SECONDS,
            socket_timeout=SOCKET_SECONDS,
            socket_connect_timeout=SOCKET_SECONDS,
            retry=Retry(NoBackoff(), retries=0),
            # With protocol 3, redis-py takes a connection that the server has closed for an open
            # one, and the first command after a restart of Redis fails.
            protocol=2,
        )
        pool.connection_class(**pool.connection_kwargs)  # refuses options it does not know
    except (ValueError, TypeError):
        # The cause may quote a piece of the password.
        raise ValueError(
            "the Redis URL cannot be used: check its port and options, and percent-encode special"
            " characters of the password"
        ) from None
    return Redis.from_pool(pool)
