"""Records in a SQLite file, from which a sweep removes those that have expired."""

import sqlite3
from collections.abc import AsyncIterator
from datetime import datetime

from service.stores.heads import to_microseconds
from service.stores.records import RecordStore
from service.stores.sqlite_connection import RunStatements, fetch_in_parts, now

RECORD_TABLES = (
    """CREATE TABLE IF NOT EXISTS records (
        key TEXT PRIMARY KEY NOT NULL,
        expires_at INTEGER NOT NULL,  -- microseconds since 1970
        value BLOB NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS records_expires_at ON records (expires_at)",
)


class SqliteRecords(RecordStore):
    """Records of a SQLite store.

    Args:
        read: Runs statements that change nothing.
        write: Runs the others.
    """

    def __init__(self, read: RunStatements, write: RunStatements) -> None:
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

    async def scan(self) -> AsyncIterator[str]:
        """See `RecordStore.scan`."""
        async for (key,) in fetch_in_parts(self._read, "records", "key"):
            yield key

    async def _change(self, statement: str, values: tuple[object, ...]) -> bool:
        """Run a statement; return True if it changed a record."""
        return await self._write(
            lambda connection: connection.execute(statement, values).rowcount > 0
        )


def remove_expired_records(connection: sqlite3.Connection) -> None:
    """Remove the records whose time has come."""
    connection.execute("DELETE FROM records WHERE expires_at <= ?", (now(),))
