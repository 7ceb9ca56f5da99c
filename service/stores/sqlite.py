"""A store in a SQLite file, which needs no server."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from gradmem_core.errors import StoreUnavailableError
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

FOREIGN_ERRORS = (sqlite3.Error, sqlite3.Warning, OSError)
SCHEME = "sqlite:///"

# journal_mode: readers and the writer of another process do not wait for each other.
# secure_delete: a deleted memory is overwritten with zeros.
SETUP = """
PRAGMA journal_mode = WAL;
PRAGMA secure_delete = ON;
CREATE TABLE IF NOT EXISTS memories (
    memory_id TEXT PRIMARY KEY NOT NULL,
    expires_at INTEGER,  -- microseconds since 1970, NULL for never
    record BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS memories_expires_at ON memories (expires_at);
"""
ALIVE = "(expires_at IS NULL OR expires_at > ?)"

logger = logging.getLogger(__name__)


def parse_path(url: str) -> Path:
    """Return the file that `sqlite:///relative.db` or `sqlite:////absolute.db` names.

    Raises:
        ValueError: The URL has another form, or names no file.
    """
    name = url.removeprefix(SCHEME)
    if name in (url, "", ":memory:"):
        raise ValueError("a SQLite URL is sqlite:///relative.db or sqlite:////absolute.db")
    return Path(name).absolute()


class SqliteStore(Store):
    """A store in a SQLite file that only its owner can read.

    One thread owns the connection, so operations run one after the other, and a slow disk holds
    up neither the event loop nor the threads of others.

    Args:
        path: The file; it is created if its folder exists.
        busy_seconds: Longest wait for another process that writes to the file.
        sweep_seconds: Time between removals of expired memories.
    """

    def __init__(
        self, path: Path, *, busy_seconds: float = 2.0, sweep_seconds: float = 60.0
    ) -> None:
        self._path = path
        self._busy_seconds = busy_seconds
        self._sweep_seconds = sweep_seconds
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """See `Store.open`; memories that expired while the store was closed are removed."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite-store")
        try:
            await self._in_thread(self._connect)
            await self._run(_remove_expired)
        except BaseException:
            await self.close()
            raise
        self._sweeper = asyncio.create_task(self._sweep())

    async def put(self, memory: StoredMemory) -> None:
        """See `Store.put`; expired memories are removed on the way."""
        await self._run(lambda connection: _insert(connection, memory))

    async def get(self, memory_id: str) -> StoredMemory:
        """See `Store.get`."""
        check_memory_id(memory_id)
        record = await self._run(lambda connection: _select(connection, memory_id))
        return unpack(memory_id, record)

    async def replace(self, old: StoredMemory, new: StoredMemory) -> bool:
        """See `Store.replace`; no copy of the old bytes stays in the files."""
        return await self._run(lambda connection: _update(connection, old, new))

    async def delete(self, memory_id: str) -> None:
        """See `Store.delete`; no copy of the bytes stays in the files."""
        check_memory_id(memory_id)
        await self._run(lambda connection: _delete(connection, memory_id))

    async def ping(self) -> None:
        """See `Store.ping`; the file must be open to writes."""
        await self._run(_try_to_write)

    async def close(self) -> None:
        """See `Store.close`."""
        await self._stop_sweeper()
        if self._thread is not None:
            try:
                await self._in_thread(self._disconnect)
            finally:
                self._thread.shutdown()
                self._thread = None

    async def _run(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connection
        if connection is None:
            raise not_open("SQLite")
        return await self._in_thread(lambda: operation(connection))

    async def _in_thread(self, operation: Callable[[], T]) -> T:
        with translate_errors("SQLite", FOREIGN_ERRORS):
            return await asyncio.get_running_loop().run_in_executor(self._thread, operation)

    def _connect(self) -> None:
        self._path.touch(mode=0o600)  # SQLite gives its side files the mode of the main one
        if self._path.stat().st_mode & 0o077:
            self._path.chmod(0o600)
        # Without an isolation level each statement is its own transaction.
        self._connection = sqlite3.connect(
            self._path, timeout=self._busy_seconds, isolation_level=None
        )
        self._connection.executescript(SETUP)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_seconds)
            try:
                await self._run(_remove_expired)
            except StoreUnavailableError:
                logger.warning("expired memories could not be removed", exc_info=True)

    async def _stop_sweeper(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeper
            self._sweeper = None


def _now() -> int:
    return to_microseconds(datetime.now(UTC))


def _insert(connection: sqlite3.Connection, memory: StoredMemory) -> None:
    _remove_expired(connection)
    expires_at = None if memory.expires_at is None else to_microseconds(memory.expires_at)
    inserted = connection.execute(
        "INSERT INTO memories VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        (memory.memory_id, expires_at, pack(memory)),
    )
    if inserted.rowcount == 0:
        raise MemoryExistsError("a memory of this id exists")


def _select(connection: sqlite3.Connection, memory_id: str) -> object:
    row: tuple[object] | None = connection.execute(
        f"SELECT record FROM memories WHERE memory_id = ? AND {ALIVE}",  # noqa: S608
        (memory_id, _now()),
    ).fetchone()
    if row is None:
        raise not_found()
    return row[0]


def _update(connection: sqlite3.Connection, old: StoredMemory, new: StoredMemory) -> bool:
    updated = connection.execute(
        f"UPDATE memories SET record = ? WHERE memory_id = ? AND record = ? AND {ALIVE}",  # noqa: S608
        (pack(new), old.memory_id, pack(old), _now()),
    )
    if updated.rowcount == 0:
        _select(connection, old.memory_id)  # raises where it is gone
        return False
    _truncate_log(connection)
    return True


def _delete(connection: sqlite3.Connection, memory_id: str) -> None:
    deleted = connection.execute(
        f"DELETE FROM memories WHERE memory_id = ? AND {ALIVE}",  # noqa: S608
        (memory_id, _now()),
    )
    if deleted.rowcount == 0:
        raise not_found()
    _truncate_log(connection)


def _remove_expired(connection: sqlite3.Connection) -> None:
    removed = connection.execute("DELETE FROM memories WHERE expires_at <= ?", (_now(),))
    if removed.rowcount:
        _truncate_log(connection)


def _truncate_log(connection: sqlite3.Connection) -> None:
    # Deleted rows stay in the write-ahead log until it is merged into the main file and truncated.
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def _try_to_write(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("ROLLBACK")
