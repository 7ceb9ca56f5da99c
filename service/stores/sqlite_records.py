"""Records in a SQLite file, from which a sweep removes those that have expired."""

import sqlite3
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Protocol, TypeAlias, TypeVar

from service.stores.heads import to_microseconds
from service.stores.records import RecordStore

T = TypeVar("T")
Operation: TypeAlias = Callable[[sqlite3.Connection], T]

RECORD_TABLES = (
    """CREATE TABLE IF NOT EXISTS records (
        key TEXT PRIMARY KEY NOT NULL,
        expires_at INTEGER NOT NULL,  -- microseconds since 1970
        value BLOB NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS records_expires_at ON records (expires_at)",
)


class RunOperation(Protocol):
    """Runs an operation on a connection; raises StoreUnavailableError where that fails."""

    def __call__(self, operation: Operation[T], /) -> Awaitable[T]:
        """Return what the operation returns."""


class SqliteRecords(RecordStore):
    """Records of a SQLite store.

    Args:
        read: Runs operations that change nothing.
        write: Runs the others.
    """

    def __init__(self, read: RunOperation, write: RunOperation) -> None:
        self._read = read
        self._write = write

    async def create(self, key: str, value: bytes, expires_at: datetime) -> bool:
        """See `RecordStore.create`."""
        return await self._change(
            "INSERT INTO records VALUES (?, ?, ?)"
            " ON CONFLICT (key) DO UPDATE SET expires_at = excluded.expires_at,"
            " value = excluded.value WHERE expires_at <= ?",
            (key, to_microseconds(expires_at), value, now()),
        )

    async def find(self, key: str) -> bytes | None:
        """See `RecordStore.find`."""
        row = await self._read(
            lambda connection: connection.execute(
                "SELECT value FROM records WHERE key = ? AND expires_at > ?", (key, now())
            ).fetchone()
        )
        return None if row is None else row[0]

    async def exchange(self, key: str, old: bytes, new: bytes, expires_at: datetime) -> bool:
        """See `RecordStore.exchange`."""
        return await self._change(
            "UPDATE records SET value = ?, expires_at = ?"
            " WHERE key = ? AND value = ? AND expires_at > ?",
            (new, to_microseconds(expires_at), key, old, now()),
        )

    async def remove(self, key: str, old: bytes) -> bool:
        """See `RecordStore.remove`."""
        return await self._change("DELETE FROM records WHERE key = ? AND value = ?", (key, old))

    async def _change(self, statement: str, values: tuple[object, ...]) -> bool:
        """RunOperation a statement; return True if it changed a record."""
        return await self._write(
            lambda connection: connection.execute(statement, values).rowcount > 0
        )


def remove_expired_records(connection: sqlite3.Connection) -> None:
    """Remove the records whose time has come."""
    connection.execute("DELETE FROM records WHERE expires_at <= ?", (now(),))


def now() -> int:
    """Return the time as the tables hold it, in microseconds since 1970."""
    return to_microseconds(datetime.now(UTC))
