"""The usage of Redis by each tenant: the size of every record, and their sum.

Records expire by themselves, and no command counts what a tenant has. So the sizes are kept beside
the records: a new one is counted, and after each change they are settled, that is, set to what the
records are now. A settlement that did not happen, because a service or Redis ended just then, is
made up for when the store sweeps (`RedisStore.sweep`): whoever changes a record first notes that in
EXPIRING.
"""

from collections.abc import Mapping
from typing import Any

from service.stores.redis_client import Client, Pipeline, to_text, transact
from service.stores.usage import Usage

USAGE_PREFIX = "gradmem:usage:"
"""Keys of a tenant's usage: `{TENANT}:sizes` is a sorted set of its memories by the bytes of their
records, `{TENANT}:bytes` their sum."""
TENANTS = f"{USAGE_PREFIX}tenants"
"""Sorted set of the tenants that have, or had, memories. A tenant is entered before anything of it
is counted, together with the first entries of the index."""
SUMMED = 1000
"Tenants whose usage is fetched at a time."


def _keys(tenant: str) -> tuple[str, str]:
    """Return the keys of the sizes and of their sum, which a cluster keeps together."""
    start = f"{USAGE_PREFIX}{{{tenant}}}"
    return f"{start}:sizes", f"{start}:bytes"


async def fetch_usage(redis: Client, tenant: str) -> Usage:
    """Return what a tenant has by its last settlements."""
    usage, _, _ = await _fetch(redis, tenant, {})
    return usage


async def fetch_total_usage(redis: Client) -> Usage:
    """Return what all tenants have by their last settlements."""
    total = Usage()
    members: list[Any] = await redis.zrange(TENANTS, 0, -1)
    tenants = list(map(to_text, members))
    for start in range(0, len(tenants), SUMMED):
        async with redis.pipeline(transaction=False) as pipeline:
            for tenant in tenants[start : start + SUMMED]:
                sizes, bytes_ = _keys(tenant)
                pipeline.zcard(sizes)
                pipeline.get(bytes_)
            found = await pipeline.execute()
        total += Usage(sum(found[::2]), sum(int(each or 0) for each in found[1::2]))
    return total


async def count(redis: Client, tenant: str, sizes: Mapping[str, int]) -> Usage | None:
    """Count new memories. May not be repeated.

    Args:
        redis: The client.
        tenant: The tenant of the memories.
        sizes: Bytes of their records by the ids of the memories.

    Returns:
        What the tenant has with them; None where some were counted already, by an attempt that was
        not completed: they are to be settled.
    """
    key, total = _keys(tenant)
    async with redis.pipeline(transaction=True) as pipeline:
        for memory_id, size in sizes.items():
            pipeline.zadd(key, {memory_id: size}, nx=True)
        pipeline.incrby(total, sum(sizes.values()))
        pipeline.zcard(key)
        *are_new, bytes_, memories = await pipeline.execute()
    twice = sum(size for size, is_new in zip(sizes.values(), are_new, strict=True) if not is_new)
    if not twice:
        return Usage(memories, bytes_)
    await redis.incrby(total, -twice)
    return None


async def settle(redis: Client, tenant: str, records: Mapping[str, str]) -> None:
    """Set the sizes of memories to those of their records; may be repeated.

    The records are measured between WATCH and EXEC. Whoever changes a size writes the sum, so of
    two at a time one begins anew, and the last one after a change of a record has its size right.

    Args:
        redis: The client. It takes a second connection while the first one watches.
        tenant: The tenant of the memories.
        records: Keys of the records by the ids of the memories.

    Raises:
        WatchError: Others settle all the time.
    """
    sizes, total = _keys(tenant)

    async def settle_all(pipeline: Pipeline) -> None:
        await pipeline.watch(total)
        usage, old, new = await _fetch(redis, tenant, records)
        present = {memory_id: size for memory_id, size in new.items() if size}
        gone = [memory_id for memory_id in old if memory_id not in present]
        usage = Usage(
            usage.memories + len(present.keys() - old.keys()) - len(gone),
            usage.bytes + sum(present.values()) - sum(old.values()),
        )
        pipeline.multi()
        if present:
            pipeline.zadd(sizes, present)
        if gone:
            pipeline.zrem(sizes, *gone)
        if usage.memories:
            pipeline.set(total, usage.bytes)
        else:
            pipeline.delete(total)
        await pipeline.execute()

    await transact(redis, settle_all)


async def _fetch(
    redis: Client, tenant: str, records: Mapping[str, str]
) -> tuple[Usage, dict[str, int], dict[str, int]]:
    """Return what a tenant has, and the sizes of records: as settled last, and as they are."""
    sizes, total = _keys(tenant)
    async with redis.pipeline(transaction=False) as pipeline:
        pipeline.zcard(sizes)
        pipeline.get(total)
        if records:
            pipeline.zmscore(sizes, list(records))
        for key in records.values():
            pipeline.strlen(key)
        count, bytes_, *rest = await pipeline.execute()
    scores, lengths = (rest[0], rest[1:]) if records else ([], [])
    old = {each: int(score) for each, score in zip(records, scores, strict=True) if score}
    new = dict(zip(records, lengths, strict=True))
    return Usage(count, int(bytes_ or 0)), old, new
