"""`gradmem-bench redis-costs`: bytes and processor time of memories in a real Redis server."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from redis.asyncio import Redis

from benchmarks.command import Measurement
from benchmarks.faults.redis_server import RedisServer
from benchmarks.options import positive, separated
from benchmarks.rows import RedisCost
from gradmem_core.tenants import DEFAULT_TENANT
from service.stores.base import new_memory_id
from service.stores.record_format import StoredMemory, pack
from service.stores.redis import RedisStore
from service.stores.redis_index import INDEX_PREFIX, KEY_PREFIX

AT_ONCE = 4
"Operations under way."
WARM = 50
"Memories that are put before the others, so that connections and buffers are there."
MODEL = "prose"


def measure_redis_costs(
    memories: Annotated[int, typer.Option(min=100, help="Memories of each size.")] = 5000,
    sizes: Annotated[
        Sequence[int], separated(parse=positive, help="Bytes of a memory's vectors.")
    ] = (1_500, 4_500, 18_500, 37_000),
) -> Measurement:
    """Measure what memories cost a Redis server in bytes and in processor time."""

    def rows() -> Iterator[RedisCost]:
        for size in sizes:
            with (
                tempfile.TemporaryDirectory(prefix="gradmem-redis-") as folder,
                RedisServer(Path(folder)) as server,
            ):
                yield asyncio.run(measure_size(server.url, memories=memories, size=size))

    return Measurement("serving", rows())


async def measure_size(url: str, *, memories: int, size: int) -> RedisCost:
    """Put memories of one size into an empty Redis, and get each of them.

    Args:
        url: The server's.
        memories: Their number.
        size: Bytes of each blob.
    """
    start = datetime.now(UTC)
    stored = [
        StoredMemory(
            memory_id=new_memory_id(),
            model=MODEL,
            metadata={},
            created_at=start + timedelta(microseconds=number),
            blob=bytes(size),
        )
        for number in range(WARM + memories)
    ]
    first, counted = stored[:WARM], stored[WARM:]
    async with RedisStore(url) as store, _inspect(url) as redis:
        await _time_server(redis, [partial(store.put, memory) for memory in first])
        before = await _used(redis)
        put = await _time_server(redis, [partial(store.put, memory) for memory in counted])
        used = await _used(redis) - before
        get = await _time_server(
            redis, [partial(store.get, DEFAULT_TENANT, memory.memory_id) for memory in counted]
        )
        value = await _usage(redis, KEY_PREFIX + stored[0].key)
        keys = [key async for key in redis.scan_iter(match=f"{INDEX_PREFIX}*", count=1000)]
        entries = sum([await redis.zcard(key) for key in keys])
        index = sum([await _usage(redis, key) for key in keys])
    return RedisCost(
        memories=memories,
        record_bytes=len(pack(stored[0])),
        used_bytes=used / memories,
        value_bytes=value,
        entries=entries // len(stored),
        entry_bytes=index / entries,
        put_seconds=put / memories,
        get_seconds=get / memories,
    )


@asynccontextmanager
async def _inspect(url: str) -> AsyncIterator[Redis]:
    redis = Redis.from_url(url)
    try:
        yield redis
    finally:
        await redis.aclose()


async def _used(redis: Redis) -> int:
    memory: dict[str, Any] = await redis.info("memory")
    return int(memory["used_memory"])


async def _usage(redis: Redis, key: str | bytes) -> int:
    """Return the bytes of a key with its value, all of its elements counted."""
    size = await redis.memory_usage(key, samples=0)
    assert size is not None
    return size


async def _time_server(
    redis: Redis, operations: Sequence[Callable[[], Awaitable[object]]]
) -> float:
    """Return the processor time that the server takes for operations, a few at a time."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def run(operation: Callable[[], Awaitable[object]]) -> None:
        async with slots:
            await operation()

    before = await _processor(redis)
    await asyncio.gather(*map(run, operations))
    return await _processor(redis) - before


async def _processor(redis: Redis) -> float:
    times: dict[str, Any] = await redis.info("cpu")
    return float(times["used_cpu_user"]) + float(times["used_cpu_sys"])
