"""Clients of redis-py for the URLs of a store: a server, a cluster, or what sentinels name."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, WatchError

from service.stores.heads import NEWEST

T = TypeVar("T")
Client: TypeAlias = Redis | RedisCluster
Pipeline: TypeAlias = Any
"A pipeline of a client; redis-py types its commands as those of its synchronous client, too."

CLUSTER = "+cluster"
"Part of a URL's scheme that names a Redis Cluster."
SENTINEL = "+sentinel"
"Part of a URL's scheme that names sentinels."
SENTINEL_PORT = 26379
"Port of a sentinel whose URL names none."
SENTINEL_OPTION = "sentinel_"
"Beginning of the options of a URL that are for the connections to sentinels."

SOCKET_SECONDS = 2.0
"Longest time to connect, to send, and to receive a reply."
MAX_CONNECTIONS = 16
"Connections in the pool; further operations wait for one."
ATTEMPTS = 50
"Attempts at a transaction while others change the same keys."


class PrimaryPool(BlockingConnectionPool, SentinelConnectionPool):
    """Connections to the primary that sentinels name now, for which operations wait."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the connections; if all, those to the sentinels too."""
        await super().disconnect(inuse_connections)
        if inuse_connections:
            await self.sentinel_manager.aclose()


def connect(url: str, *, wait_seconds: float) -> Client:
    """Return a client, which connects when it is first used.

    Args:
        url: See `service.stores.create_store`.
        wait_seconds: Longest wait for a free connection.

    Raises:
        ValueError: The URL cannot be used. The message repeats no part of it.
    """
    # With protocol 3, redis-py takes a connection that the server has closed for an open one, and
    # the first command after a restart of Redis fails.
    options: dict[str, Any] = {
        "max_connections": MAX_CONNECTIONS,
        "socket_timeout": SOCKET_SECONDS,
        "socket_connect_timeout": SOCKET_SECONDS,
        "retry": Retry(NoBackoff(), retries=0),
        "protocol": 2,
    }
    scheme, _, rest = url.partition("://")
    try:
        if scheme.endswith(CLUSTER):
            return RedisCluster.from_url(f"{scheme.removesuffix(CLUSTER)}://{rest}", **options)
        options["timeout"] = wait_seconds
        pool: BlockingConnectionPool
        if scheme.endswith(SENTINEL):
            pool = _find_primary(f"{scheme.removesuffix(SENTINEL)}://{rest}", options)
        else:
            pool = BlockingConnectionPool.from_url(url, **options)
        pool.connection_class(**pool.connection_kwargs)  # refuses options it does not know
    except (ValueError, TypeError, RedisClusterException):
        # The cause may quote a piece of the password.
        raise ValueError(
            "the Redis URL cannot be used: check its port and options, and percent-encode special"
            " characters of the password"
        ) from None
    return Redis.from_pool(pool)


async def transact(
    redis: Client, attempt: Callable[[Pipeline], Awaitable[T]], *, attempts: int = ATTEMPTS
) -> T:
    """Make attempts at an optimistic transaction until nobody else changes what it watches.

    A transaction in place of a script: some users may not run scripts.

    Args:
        redis: The client.
        attempt: Watches keys of a pipeline, reads them, and executes commands or leaves it.
        attempts: Most attempts.

    Returns:
        What the attempt returns that nobody interfered with.

    Raises:
        WatchError: Others interfered with each of them.
    """
    for _ in range(attempts):
        async with redis.pipeline(transaction=True) as pipeline:
            with suppress(WatchError):
                return await attempt(pipeline)
        await asyncio.sleep(0)
    raise WatchError("others changed the same keys each time")


async def fetch_positions(redis: Client, key: str, before: str, count: int) -> list[str]:
    """Return the next positions of a list, the newest first.

    Args:
        redis: The client.
        key: A sorted set of positions, all of which have the score 0.
        before: The position before; NEWEST begins anew.
        count: Most positions.
    """
    start = "+" if before == NEWEST else f"({before}"
    positions: list[Any] = await redis.zrange(
        key, start, "-", desc=True, bylex=True, offset=0, num=count
    )
    return list(map(to_text, positions))


def to_text(value: bytes | str) -> str:
    """Return a reply of Redis as text."""
    return value.decode() if isinstance(value, bytes) else value


def _find_primary(url: str, options: dict[str, Any]) -> PrimaryPool:
    """Return the pool for a URL with the addresses of sentinels and the name of a service.

    User, password and TLS are those of the primary; the sentinels have the same TLS.

    Raises:
        ValueError: It lacks an address or a service, or has an option that is malformed.
    """
    parts = urlsplit(url)
    credentials, at, addresses = parts.netloc.rpartition("@")
    service, _, database = parts.path.removeprefix("/").partition("/")
    if not service:
        raise ValueError("no service")
    server = urlunsplit((parts.scheme, f"{credentials}{at}", f"/{database}", parts.query, ""))
    given: dict[str, Any] = {**parse_url(server)}
    given.pop("connection_class", None)
    for_sentinels = {
        name.removeprefix(SENTINEL_OPTION): given.pop(name)
        for name in list(given)
        if name.startswith(SENTINEL_OPTION)
    }
    tls = parts.scheme == "rediss"
    if tls:
        shared = {name: value for name, value in given.items() if name.startswith("ssl_")}
        for_sentinels = {"ssl": True} | shared | for_sentinels
    for_sockets = {name: options[name] for name in ("socket_timeout", "socket_connect_timeout")}
    sentinels = Sentinel(  # type: ignore[no-untyped-call]
        [_split_address(address) for address in addresses.split(",")],
        sentinel_kwargs=for_sockets | {"retry": options["retry"], "protocol": 2} | for_sentinels,
    )
    return PrimaryPool(
        connection_class=SentinelManagedSSLConnection if tls else SentinelManagedConnection,
        service_name=service,
        sentinel_manager=sentinels,
        **(options | given),
    )


def _split_address(address: str) -> tuple[str, int]:
    parts = urlsplit(f"//{address}")
    if not parts.hostname:
        raise ValueError("no host")
    return parts.hostname, parts.port or SENTINEL_PORT
