"""Records in a SQLite file, from which a sweep removes those that have expired."""

import sqlite3
from collections.abc import AsyncIterator
from datetime import datetime

from service.stores.heads import to_microseconds
from service.stores.records import RecordStore
from service.stores.sqlite_connection import RunStatements, fetch_in_parts, now

GROUP = "rtrim({0}, replace({0}, ':', ''))"
"Expression for the group of a key: the key without all that is no colon at its end."
RECORD_TABLES = (
    """CREATE TABLE IF NOT EXISTS records (
        key TEXT PRIMARY KEY NOT NULL,
        expires_at INTEGER NOT NULL,  -- microseconds since 1970
        value BLOB NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS records_expires_at ON records (expires_at)",
    """CREATE TABLE IF NOT EXISTS record_groups (
        name TEXT PRIMARY KEY NOT NULL,  -- with the colon
        records INTEGER NOT NULL
    ) WITHOUT ROWID""",
    f"""CREATE TRIGGER IF NOT EXISTS records_counted AFTER INSERT ON records BEGIN
        INSERT INTO record_groups VALUES ({GROUP.format("NEW.key")}, 1)
        ON CONFLICT DO UPDATE SET records = records + 1;
    END""",  # noqa: S608
    f"""CREATE TRIGGER IF NOT EXISTS records_uncounted AFTER DELETE ON records BEGIN
        UPDATE record_groups SET records = records - 1 WHERE name = {GROUP.format("OLD.key")};
    END""",  # noqa: S608
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

    async def count(self, group: str) -> int:
        """See `RecordStore.count`."""
        row = await self._read(
            lambda connection: connection.execute(
                "SELECT records FROM record_groups WHERE name = ?", (group,)
            ).fetchone()
        )
        return 0 if row is None else int(row[0])

    async def scan(self) -> AsyncIterator[str]:
        """See `RecordStore.scan`."""
        async for (key,) in fetch_in_parts(self._read, "records", "key"):
            yield key

    async def _change(self, statement: str, values: tuple[object, ...]) -> bool:
        """Run a statement; return True if it changed a record."""
        return await self._write(
            lambda connection: connection.execute(statement, values).rowcount > 0
        )


def count_all_records(connection: sqlite3.Connection) -> None:
    """Count the records of each group in a file from before there were triggers."""
    connection.execute("DELETE FROM record_groups")
    connection.execute(
        f"INSERT INTO record_groups SELECT {GROUP.format('key')}, count(*) FROM records GROUP BY 1"  # noqa: S608
    )


def remove_expired_records(connection: sqlite3.Connection) -> None:
    """Remove the records whose time has come."""
    connection.execute("DELETE FROM records WHERE expires_at <= ?", (now(),))
