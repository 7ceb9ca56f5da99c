"""Records in Redis, which removes them when they expire."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from redis.exceptions import WatchError

from service.stores.heads import to_microseconds
from service.stores.records import RecordStore
from service.stores.redis_client import Client, Pipeline, transact

T = TypeVar("T")

RECORD_PREFIX = "gradmem:record:"
"Keys of records."
GROUP_PREFIX = "gradmem:records:"
"Keys of groups: sorted sets of the keys of their records, by the time at which they expire."
FORGOTTEN = 1000
"Most expired records of a group that are forgotten when another is entered."


class RunCommands(Protocol):
    """Sends commands to Redis; raises StoreUnavailableError where that fails."""

    def __call__(self, command: Callable[[Client], Awaitable[T]], /) -> Awaitable[T]:
        """Return what the commands return."""


class ScanKeys(Protocol):
    """Finds keys; raises StoreUnavailableError where that fails."""

    def __call__(self, prefix: str, /) -> AsyncIterator[str]:
        """Yield what follows the prefix in each key that begins with it, at least once."""


class RedisRecords(RecordStore):
    """Records of a Redis store.

    Args:
        run: Sends commands once.
        retry: Sends commands that may be repeated, and repeats them.
        scan_keys: Finds keys.
    """

    def __init__(self, run: RunCommands, retry: RunCommands, scan_keys: ScanKeys) -> None:
        self._run = run
        self._retry = retry
        self._scan_keys = scan_keys

    async def create(self, key: str, value: bytes, expires_at: datetime) -> bool:
        """See `RecordStore.create`."""
        milliseconds = to_milliseconds(expires_at)
        created = await self._run(
            lambda redis: redis.set(RECORD_PREFIX + key, value, nx=True, pxat=milliseconds)
        )
        if created:  # one that is not counted, because the process ends here, does no harm
            await self._retry(
                lambda redis: transact(redis, lambda attempt: _enter(attempt, key, milliseconds))
            )
        return bool(created)

    async def find(self, key: str) -> bytes | None:
        """See `RecordStore.find`."""
        record: Any = await self._retry(lambda redis: redis.get(RECORD_PREFIX + key))
        return None if record is None else bytes(record)

    async def exchange(self, key: str, old: bytes, new: bytes, expires_at: datetime) -> bool:
        """See `RecordStore.exchange`."""
        return bool(
            await self._run(
                lambda redis: exchange_value(redis, RECORD_PREFIX + key, old, new, expires_at)
            )
        )

    async def remove(self, key: str, old: bytes) -> bool:
        """See `RecordStore.remove`."""
        removed = await self._run(
            lambda redis: exchange_value(redis, RECORD_PREFIX + key, old, None, None)
        )
        if removed:
            await self._retry(lambda redis: redis.zrem(_group_key(key), key))
        return bool(removed)

    async def count(self, group: str) -> int:
        """See `RecordStore.count`."""
        now = to_milliseconds(datetime.now(UTC))
        return int(
            await self._retry(lambda redis: redis.zcount(_group_key(group), f"({now}", "+inf"))
        )

    def scan(self) -> AsyncIterator[str]:
        """See `RecordStore.scan`."""
        return self._scan_keys(RECORD_PREFIX)


async def _enter(pipeline: Pipeline, key: str, expires_at: int) -> None:
    """Enter a record in its group: an attempt at the transaction.

    The group expires with the last of its records; those that have expired are forgotten.
    """
    group_key = _group_key(key)
    await pipeline.watch(group_key)
    now = to_milliseconds(datetime.now(UTC))
    expired = await pipeline.zrange(group_key, "-inf", now, byscore=True, offset=0, num=FORGOTTEN)
    last = await pipeline.zrange(group_key, -1, -1, withscores=True)
    pipeline.multi()
    if expired:
        pipeline.zrem(group_key, *expired)
    pipeline.zadd(group_key, {key: expires_at})
    pipeline.pexpireat(group_key, max([expires_at, *(int(score) for _, score in last)]))
    await pipeline.execute()


def _group_key(key: str) -> str:
    """Return the key of the group of a record."""
    return GROUP_PREFIX + key.rpartition(":")[0]


async def exchange_value(
    redis: Client, key: str, old: bytes, new: bytes | None, expires_at: datetime | None
) -> bool | None:
    """Replace a value and its expiry unless it is another; None where there is none.

    Args:
        redis: The client.
        key: The key.
        old: The value that is expected.
        new: The value in its place; None to delete the key.
        expires_at: Time at which it expires; None for never.
    """

    async def exchange(pipeline: Pipeline) -> bool | None:
        await pipeline.watch(key)
        current = await pipeline.get(key)
        if current is None:
            return None
        if current != old:
            return False
        pipeline.multi()
        if new is None:
            pipeline.delete(key)
        else:
            expiry = None if expires_at is None else to_milliseconds(expires_at)
            pipeline.set(key, new, pxat=expiry)
        await pipeline.execute()
        return True

    try:
        return await transact(redis, exchange, attempts=1)
    except WatchError:
        return False


def to_milliseconds(moment: datetime) -> int:
    """Return a time as Redis takes it, rounded down, so that nothing outlives its time."""
    return to_microseconds(moment) // 1000
