"""Stores of memories: one interface, implemented with SQLite and with Redis."""

from service.stores.base import Store, new_memory_id
from service.stores.errors import MemoryExistsError
from service.stores.heads import (
    MEMORY_ID,
    NEWEST,
    MemoryFilter,
    MemoryHead,
    MemoryList,
    check_cursor,
    memory_key,
)
from service.stores.jobs import JobStore, JobTask, StoredJob, WholeJob
from service.stores.record_format import StoredMemory
from service.stores.records import RecordStore
from service.stores.sqlite import SqliteStore, parse_path
from service.stores.usage import NO_QUOTA, Quota, Usage

__all__ = [
    "MEMORY_ID",
    "NEWEST",
    "NO_QUOTA",
    "JobStore",
    "JobTask",
    "MemoryExistsError",
    "MemoryFilter",
    "MemoryHead",
    "MemoryList",
    "Quota",
    "RecordStore",
    "Store",
    "StoredJob",
    "StoredMemory",
    "Usage",
    "WholeJob",
    "check_cursor",
    "create_store",
    "memory_key",
    "new_memory_id",
]


def create_store(url: str, *, allow_eviction: bool = False) -> Store:
    """Return the store that a URL names, not yet opened.

    Args:
        url: `sqlite:///relative.db`, `sqlite:////absolute.db`, `redis://...` or `rediss://...`;
            `redis+cluster://...` or `rediss+cluster://...` for a Redis Cluster;
            `redis+sentinel://HOST:PORT,HOST:PORT/SERVICE` or `rediss+sentinel://...` for the
            primary of a service that sentinels watch, with `/DATABASE` after it where that is not
            0. Options are redis-py's, such as `?ssl_ca_certs=FILE`; those that begin with
            `sentinel_` are for the connections to the sentinels.
        allow_eviction: Use also a Redis that may drop memories when its memory is full.

    Raises:
        ValueError: The URL names no store. The message repeats no part of it, since URLs hold
            passwords.
    """
    match url.partition("://")[0]:
        case "sqlite":
            return SqliteStore(parse_path(url))
        case (
            "redis"
            | "rediss"
            | "redis+cluster"
            | "rediss+cluster"
            | "redis+sentinel"
            | "rediss+sentinel"
        ):
            from service.stores.redis import RedisStore  # takes a while to load

            return RedisStore(url, allow_eviction=allow_eviction)
        case _:
            raise ValueError("a store URL begins with sqlite:///, redis:// or rediss://")
