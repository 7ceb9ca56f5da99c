"""Memories in a SQLite file: their tables, and the statements on them."""

import sqlite3
from collections.abc import Mapping

from service.stores.errors import MemoryExistsError, not_found
from service.stores.heads import MemoryHead, memory_id_at, split_key, to_microseconds
from service.stores.record_format import START_BYTES, StoredMemory, head_size, pack, unpack_head
from service.stores.sqlite_connection import now, transaction
from service.stores.sqlite_usage import select_usage
from service.stores.usage import Quota, Usage

MEMORY_TABLES = (
    """CREATE TABLE IF NOT EXISTS memories (
        key TEXT PRIMARY KEY NOT NULL,  -- see memory_key
        expires_at INTEGER,  -- microseconds since 1970, NULL for never
        record BLOB NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS memories_expires_at ON memories (expires_at)",
    # the index of lists, see service/stores/heads.py
    """CREATE TABLE IF NOT EXISTS entries (
        tag TEXT NOT NULL,
        position TEXT NOT NULL,
        key TEXT NOT NULL,  -- of the memory
        PRIMARY KEY (tag, position)
    ) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS entries_key ON entries (key)",
    """CREATE TRIGGER IF NOT EXISTS memories_deleted AFTER DELETE ON memories BEGIN
        DELETE FROM entries WHERE key = OLD.key;
    END""",
)
ALIVE = "(expires_at IS NULL OR expires_at > ?)"


def index_all(connection: sqlite3.Connection) -> None:
    """Fill the index of lists from the records."""
    connection.execute("DELETE FROM entries")
    query = "SELECT rowid, key FROM memories WHERE typeof(record) = 'blob'"  # the rest is damaged
    for row_id, key in connection.execute(query):
        head = _read_head(connection, *split_key(key), row_id)
        if head is not None:
            _add_entries(connection, head)


def insert_within_quota(connection: sqlite3.Connection, memory: StoredMemory, quota: Quota) -> None:
    """Add a new memory; expired ones are removed first.

    Raises:
        MemoryExistsError: Its id is taken.
        QuotaError: Its tenant would have more than the quota.
    """
    remove_expired_memories(connection)
    with transaction(connection):
        usage = select_usage(connection, memory.tenant)
        if not insert_memory(connection, memory):
            raise MemoryExistsError("a memory of this id exists")
        quota.check(usage, select_usage(connection, memory.tenant) - usage)


def insert_memory(connection: sqlite3.Connection, memory: StoredMemory) -> bool:
    """Add a memory, within a transaction; return False where its id is taken."""
    inserted = connection.execute(
        "INSERT INTO memories VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        (memory.key, _expiry(memory), pack(memory)),
    )
    if inserted.rowcount == 0:
        return False
    _add_entries(connection, memory)
    return True


def _expiry(memory: StoredMemory) -> int | None:
    return None if memory.expires_at is None else to_microseconds(memory.expires_at)


def _add_entries(connection: sqlite3.Connection, head: MemoryHead) -> None:
    connection.executemany(
        "INSERT INTO entries VALUES (?, ?, ?)",
        [(tag, head.position, head.key) for tag in head.tags],
    )


def select_heads(
    connection: sqlite3.Connection, tenant: str, tag: str, before: str, count: int
) -> list[tuple[str, MemoryHead | None]]:
    """Return the next positions under a tag, with their heads; see `Store.list_memories`."""
    with transaction(connection, "DEFERRED"):  # what is selected can be read
        rows = connection.execute(
            "SELECT position, memories.rowid FROM entries JOIN memories USING (key)"
            " WHERE tag = ? AND position < ? ORDER BY position DESC LIMIT ?",
            (tag, before, count),
        ).fetchall()
        return [
            (position, _read_head(connection, tenant, memory_id_at(position), row_id))
            for position, row_id in rows
        ]


def _read_head(
    connection: sqlite3.Connection, tenant: str, memory_id: str, row_id: int
) -> MemoryHead | None:
    """Read the head of a memory, without the pages of the file that hold the rest."""
    with connection.blobopen("memories", "record", row_id, readonly=True) as record:
        start = record.read(START_BYTES)
        return unpack_head(tenant, memory_id, start + record.read(head_size(start) - len(start)))


def select_record(connection: sqlite3.Connection, key: str) -> object:
    """Return the value under a key of a memory.

    Raises:
        MemoryNotFoundError: There is none, or it has expired.
    """
    row: tuple[object] | None = connection.execute(
        f"SELECT record FROM memories WHERE key = ? AND {ALIVE}",  # noqa: S608
        (key, now()),
    ).fetchone()
    if row is None:
        raise not_found()
    return row[0]


def update_memory(
    connection: sqlite3.Connection, old: StoredMemory, new: StoredMemory, quota: Quota
) -> bool:
    """Replace a memory; return False if it has changed.

    Raises:
        MemoryNotFoundError: It is not there any more, or has expired.
        QuotaError: Its tenant would have more than the quota.
    """
    before, after = pack(old), pack(new)
    with transaction(connection):
        usage = select_usage(connection, old.tenant)
        updated = connection.execute(
            "UPDATE memories SET record = ?, expires_at = ?"  # noqa: S608
            f" WHERE key = ? AND record = ? AND {ALIVE}",
            (after, _expiry(new), old.key, before, now()),
        )
        if updated.rowcount == 0:
            select_record(connection, old.key)  # raises where it is gone
            return False
        quota.check(usage, Usage(0, len(after) - len(before)))
        if new.tags != old.tags:
            connection.execute("DELETE FROM entries WHERE key = ?", (old.key,))
            _add_entries(connection, new)
    truncate_log(connection)
    return True


def delete_memories(connection: sqlite3.Connection, keys: Mapping[str, str]) -> list[str]:
    """Delete memories by their keys; return the ids of those that were there."""
    query = f"DELETE FROM memories WHERE key = ? AND {ALIVE}"  # noqa: S608
    with transaction(connection):
        deleted = [
            memory_id
            for memory_id, key in keys.items()
            if connection.execute(query, (key, now())).rowcount
        ]
    if deleted:
        truncate_log(connection)
    return deleted


def remove_expired_memories(connection: sqlite3.Connection) -> None:
    """Remove the memories whose time has come."""
    removed = connection.execute("DELETE FROM memories WHERE expires_at <= ?", (now(),))
    if removed.rowcount:
        truncate_log(connection)


def truncate_log(connection: sqlite3.Connection) -> bool:
    """Empty the write-ahead log, in which deleted rows stay until then; False while it is read."""
    busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not busy
