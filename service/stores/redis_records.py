"""Records in Redis, which removes them when they expire."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Any, Protocol, TypeVar

from redis.exceptions import WatchError

from service.stores.heads import to_microseconds
from service.stores.records import RecordStore
from service.stores.redis_client import Client, Pipeline, transact

T = TypeVar("T")

RECORD_PREFIX = "gradmem:record:"
"Keys of records."


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
        return bool(
            await self._run(
                lambda redis: redis.set(RECORD_PREFIX + key, value, nx=True, pxat=milliseconds)
            )
        )

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
        return bool(
            await self._run(
                lambda redis: exchange_value(redis, RECORD_PREFIX + key, old, None, None)
            )
        )

    def scan(self) -> AsyncIterator[str]:
        """See `RecordStore.scan`."""
        return self._scan_keys(RECORD_PREFIX)


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
