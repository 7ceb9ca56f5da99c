"""Causes of redis-py's errors, in words for people."""

import re
import socket
import ssl
from collections.abc import Iterator
from typing import NamedTuple

from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    BusyLoadingError,
    ChildDeadlockedError,
    ClusterError,
    IncorrectPolicyType,
    MaxConnectionsError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    WatchError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from gradmem_core.errors import StoreFullError, StoreUnavailableError

# redis-py's own tree has four roots; OSError covers sockets and asyncio's timeout.
FOREIGN_ERRORS = (
    RedisError,
    RedisClusterException,
    ChildDeadlockedError,
    IncorrectPolicyType,
    OSError,
)

COMMANDS = " ".join(
    f"+{name}"
    for name in (
        *("get", "set", "del", "exists", "persist", "pexpireat"),
        *("watch", "unwatch", "multi", "exec", "hget", "hset", "hvals", "ping"),
        *("getrange", "incrby", "scan", "strlen", "zadd", "zcard", "zcount"),
        *("zmscore", "zrange", "zrem"),
        *("hdel", "hincrby", "hmget", "sadd", "scard", "srem", "zscore", "xack", "xadd"),
        *("xautoclaim", "xclaim", "xdel", "xgroup", "xpending", "xreadgroup"),
    )
)
"Commands that the store's user needs, as an ACL names them."


class Cause(NamedTuple):
    """A cause, told by an error's class and by what Redis says."""

    error: type[BaseException] | tuple[type[BaseException], ...]
    pattern: str
    "Regular expression that is searched in the error's text."
    text: str
    full: bool = False
    "True where Redis has no room."


PASSWORD = "refused the user or the password of the store's URL"  # noqa: S105
PERMISSION = f"does not permit the user what the store does; it needs ~gradmem:* {COMMANDS}"
TLS_FILE = "has a TLS file in its URL that cannot be used; check the paths after ssl_"
CAUSES = (
    Cause(AuthenticationError, "", PASSWORD),
    Cause(AuthenticationWrongNumberOfArgsError, "", PASSWORD),
    Cause(ResponseError, "NOAUTH|WRONGPASS|without any password configured", PASSWORD),
    Cause((NoPermissionError, AuthorizationError), "", PERMISSION),
    Cause(ResponseError, "NOPERM|no permissions|without MULTI", PERMISSION),
    Cause(
        OutOfMemoryError,
        "",
        "has no room: its maxmemory is reached; raise it, or delete memories",
        full=True,
    ),
    Cause(
        ResponseError,
        "MISCONF.*No space left",
        "has no room: the disk of its append-only file is full; free space there",
        full=True,
    ),
    Cause(ResponseError, "MISCONF", "cannot save to its disk and refuses writes; see its log"),
    Cause(ReadOnlyError, "", "is a read-only replica; name the primary in the store's URL"),
    Cause(ResponseError, "NOREPLICAS", "has too few replicas and refuses writes; see its log"),
    Cause(
        ResponseError,
        "DB index is out of range|SELECT is not allowed",
        "has no database of the number in the store's URL",
    ),
    Cause(ResponseError, "unknown command", "is too old: version 6.2 or later is needed"),
    Cause(ResponseError, "already in progress|can't BGREWRITEAOF", "is saving already; try later"),
    Cause(BusyLoadingError, "", "is loading its data after a start; try again"),
    Cause(ResponseError, "MASTERDOWN", "is a replica whose primary is down"),
    Cause(AskError, "", "is a node of a Redis Cluster: write redis+cluster:// in the store's URL"),
    Cause(
        (ClusterError, RedisClusterException, ResponseError),
        "CLUSTERDOWN|Hash slot not served|cluster",
        "is a Redis Cluster that does not serve this memory's slot now; try again",
    ),
    Cause(
        (MaxConnectionsError, RedisError),
        "max number of clients|No connection available|Too many connections",
        "has no free connection; try again",
    ),
    Cause(
        MasterNotFoundError,
        "",
        "has no primary now: its sentinels cannot be reached, do not know the service of its URL,"
        " or have not named another primary yet",
    ),
    Cause(
        ssl.SSLCertVerificationError,
        "[Hh]ostname mismatch|IP address mismatch",
        "has a TLS certificate for another host; name that host in the store's URL",
    ),
    Cause(
        ssl.SSLCertVerificationError,
        "",
        "has a TLS certificate that is not trusted; set ssl_ca_certs in the store's URL",
    ),
    Cause((FileNotFoundError, IsADirectoryError, PermissionError), "", TLS_FILE),
    Cause(ssl.SSLError, "NO_CERTIFICATE|PEM|no start line|KEY_VALUES_MISMATCH", TLS_FILE),
    Cause(
        ssl.SSLError, "", "does not speak TLS as the store's URL says (rediss://); check its port"
    ),
    Cause(socket.gaierror, "", "has a host name that cannot be resolved"),
    Cause(ConnectionRefusedError, "", "cannot be reached: nothing listens on its port"),
    Cause(
        ConnectionResetError,
        "",
        "closed the connection; with TLS its URL begins with rediss://; else try again",
    ),
    Cause(
        RedisTimeoutError,
        "connecting",
        "did not take the connection in time; check its host and port, and rediss:// (TLS)",
    ),
    Cause((RedisTimeoutError, OSError), "[Tt]imeout|[Tt]imed out|^$", "did not answer in time"),
    Cause(
        RedisError,
        "Connection closed|Connection lost|Connection reset",
        "closed the connection; with TLS its URL begins with rediss://; else try again",
    ),
    Cause(WatchError, "", "is busy with other changes of the same data; try again"),
)
"Causes; the first that fits the error, or one that caused it, counts."
UNKNOWN = "cannot be reached or refused the operation; try again, and see its log"


def explain(error: Exception) -> StoreUnavailableError:
    """Return the error that says what is wrong with Redis; it names no host, user or key."""
    errors = list(_chain(error))
    for cause in CAUSES:
        if any(
            isinstance(each, cause.error) and re.search(cause.pattern, str(each)) for each in errors
        ):
            kind = StoreFullError if cause.full else StoreUnavailableError
            return kind(f"the Redis store {cause.text}")
    return StoreUnavailableError(f"the Redis store {UNKNOWN}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it arose from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
