"""A store in a SQLite file, which needs no server."""

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from gradmem_core.errors import StoreFullError, StoreUnavailableError
from service.stores.base import (
    START_BYTES,
    MemoryExistsError,
    Store,
    StoredMemory,
    check_memory_id,
    head_size,
    not_found,
    not_open,
    pack,
    refuse_expired,
    translate_errors,
    unpack,
    unpack_head,
)
from service.stores.heads import MemoryHead, memory_id_at, memory_key, split_key, to_microseconds
from service.stores.sqlite_errors import FOREIGN_ERRORS, explain
from service.stores.sqlite_files import SqliteFiles
from service.stores.sqlite_jobs import JOB_TABLES, SqliteJobs, remove_expired_jobs
from service.stores.sqlite_records import (
    RECORD_TABLES,
    Operation,
    SqliteRecords,
    now,
    remove_expired_records,
)
from service.stores.sqlite_usage import USAGE_TABLES, count_all, select_usage
from service.stores.usage import NO_QUOTA, Quota, Usage

T = TypeVar("T")

SCHEME = "sqlite:///"

# journal_mode: readers and writers do not wait for each other.
# secure_delete: a deleted memory is overwritten with zeros.
PRAGMAS = ("PRAGMA journal_mode = WAL", "PRAGMA secure_delete = ON")
TABLES = (
    """CREATE TABLE IF NOT EXISTS memories (
        key TEXT PRIMARY KEY NOT NULL,  -- see memory_key
        expires_at INTEGER,  -- microseconds since 1970, NULL for never
        record BLOB NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS keys (
        key_id TEXT PRIMARY KEY NOT NULL,
        record TEXT NOT NULL
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
    *RECORD_TABLES,
    *USAGE_TABLES,
    *JOB_TABLES,
)
LISTED, COUNTED = 1, 2
"""The file's `user_version` once all its memories are in the index of lists, and once what each
tenant has is counted, too."""
ALIVE = "(expires_at IS NULL OR expires_at > ?)"
CHECK_SECONDS = 5.0
"Longest time of the integrity check at the start; a large file is checked in part."
PROGRESS_INSTRUCTIONS = 10_000
"Instructions of SQLite's machine between two looks at the clock."

SCANNED = 1000
"Keys that `scan` fetches at a time."

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

    One connection writes and another reads, each in a thread of its own. So writes run one after
    the other, reads do not wait for writes that a lock or a slow disk holds up, and nothing holds
    up the event loop.

    Args:
        path: The file; it is created if its folder exists.
        busy_seconds: Longest wait for another process that writes to the file.
        sweep_seconds: Time between removals of expired memories.
    """

    failed_puts_leave_nothing = True

    def __init__(
        self, path: Path, *, busy_seconds: float = 2.0, sweep_seconds: float = 60.0
    ) -> None:
        super().__init__()
        self._files = SqliteFiles(path)
        self._busy_seconds = busy_seconds
        self._sweep_seconds = sweep_seconds
        self._writer = _Connection("sqlite-writer")
        self._reader = _Connection("sqlite-reader")
        self.records = SqliteRecords(self._reader.run, self._write)
        self.jobs = SqliteJobs(self._reader.run, self._write, _transaction)
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """See `Store.is_open`."""
        return self._reader.is_open

    async def open(self) -> None:
        """See `Store.open`; memories that expired while the store was closed are removed.

        Raises:
            StoreUnavailableError: See `Store.open`; also if the file is damaged.
        """
        try:
            await self._writer.open(self._connect)
            await self._writer.run(self._set_up)
            await self._writer.run(self._sweep)
            self._files.remember()
            await self._reader.open(self._connect)
        except BaseException:
            await self.close()
            raise
        self._sweeper = asyncio.create_task(self._keep_sweeping())

    async def _publish(self, memory: StoredMemory, quota: Quota) -> None:
        """See `Store.put`; expired memories are removed on the way."""

        def insert(connection: sqlite3.Connection) -> None:
            _insert(connection, memory, quota)
            try:
                self._files.check_linked()
            except StoreUnavailableError:  # the file may be put back
                _delete(connection, {memory.memory_id: memory.key})
                raise

        await self._write(insert)

    async def put_many(self, memories: Sequence[StoredMemory]) -> list[bool]:
        """See `Store.put_many`; all or none are published."""

        def insert(connection: sqlite3.Connection) -> list[bool]:
            with _transaction(connection):
                return [_add(connection, memory) for memory in memories]

        return await self._write(insert)

    async def get(self, tenant: str, memory_id: str) -> StoredMemory:
        """See `Store.get`."""
        check_memory_id(memory_id)
        key = memory_key(tenant, memory_id)
        record = await self._reader.run(lambda connection: _select(connection, key))
        memory = unpack(tenant, memory_id, record)
        refuse_expired(memory)  # the column may have been changed or damaged
        return memory

    async def replace(self, old: StoredMemory, new: StoredMemory, quota: Quota = NO_QUOTA) -> bool:
        """See `Store.replace`; no copy of the old bytes stays in the files."""
        refuse_expired(old)
        return await self._write(lambda connection: _update(connection, old, new, quota))

    async def delete_many(self, tenant: str, memory_ids: Collection[str]) -> list[str]:
        """See `Store.delete_many`; all or none are deleted.

        No copy of the bytes stays in the files. While another process reads them, the bytes stay in
        the write-ahead log: the next sweep after that removes them.
        """
        keys = {memory_id: memory_key(tenant, memory_id) for memory_id in memory_ids}
        return await self._write(
            lambda connection: self._with_reserve(lambda: _delete(connection, keys))
        )

    async def _walk(
        self, tenant: str, tag: str, before: str, count: int
    ) -> list[tuple[str, MemoryHead | None]]:
        """See `Store.list_memories`."""
        return await self._reader.run(
            lambda connection: _select_heads(connection, tenant, tag, before, count)
        )

    async def usage(self, tenant: str) -> Usage:
        """See `Store.usage`."""
        return await self._reader.run(lambda connection: select_usage(connection, tenant))

    async def sweep(self) -> None:
        """See `Store.sweep`."""
        await self._write(
            lambda connection: self._with_reserve(lambda: _remove_expired(connection))
        )

    async def scan(self) -> AsyncIterator[tuple[str, str]]:
        """See `Store.scan`."""
        last, query = "", f"SELECT key FROM memories WHERE key > ? ORDER BY key LIMIT {SCANNED}"  # noqa: S608
        while rows := await self._fetch(query, last):
            for (last,) in rows:
                yield split_key(last)

    async def save_key(self, key_id: str, record: str) -> None:
        """See `Store.save_key`."""
        await self._write(
            lambda connection: connection.execute(
                "INSERT OR REPLACE INTO keys VALUES (?, ?)", (key_id, record)
            )
        )

    async def find_key(self, key_id: str) -> str | None:
        """See `Store.find_key`."""
        rows = await self._fetch("SELECT record FROM keys WHERE key_id = ?", key_id)
        return rows[0][0] if rows else None

    async def list_keys(self) -> list[str]:
        """See `Store.list_keys`."""
        return [record for (record,) in await self._fetch("SELECT record FROM keys")]

    async def has_keys(self) -> bool:
        """See `Store.has_keys`."""
        return bool(await self._fetch("SELECT 1 FROM keys LIMIT 1"))

    async def purge(self) -> None:
        """See `Store.purge`.

        Raises:
            StoreUnavailableError: See `Store`; also while another process reads the file.
        """
        if not await self._write(self._sweep):
            raise StoreUnavailableError(
                "another process reads the SQLite file, so deleted memories stay in its"
                " write-ahead log (-wal); try again when that process is done"
            )

    async def _release(self) -> None:
        """See `Store.close`."""
        await self._stop_sweeper()
        try:
            await self._reader.close()
        finally:
            await self._writer.close()

    async def _fetch(self, query: str, *values: object) -> list[Any]:
        return await self._reader.run(
            lambda connection: connection.execute(query, values).fetchall()
        )

    async def _write(self, operation: Operation[T]) -> T:
        """Run an operation that changes the file, and make sure that it reached the file."""

        def write(connection: sqlite3.Connection) -> T:
            self._files.check_linked()
            result = operation(connection)
            self._files.check_linked()
            return result

        return await self._writer.run(write)

    def _connect(self) -> sqlite3.Connection:
        self._files.create()
        # Without an isolation level each statement is its own transaction.
        return sqlite3.connect(self._files.path, timeout=self._busy_seconds, isolation_level=None)

    def _set_up(self, connection: sqlite3.Connection) -> None:
        self._with_reserve(lambda: _create_tables(connection))
        _check_integrity(connection)

    def _sweep(self, connection: sqlite3.Connection) -> bool:
        """Remove expired memories, and the bytes of deleted ones; return False if some stay."""
        self._with_reserve(lambda: _remove_expired(connection))
        self._with_reserve(lambda: remove_expired_records(connection))
        self._with_reserve(lambda: remove_expired_jobs(connection))
        emptied = _truncate_log(connection)
        self._files.take_reserve()
        return emptied

    def _with_reserve(self, operation: Callable[[], T]) -> T:
        """Run an operation that makes room; on a full disk again, with the reserve's space."""
        try:
            return operation()
        except sqlite3.Error as error:
            if not isinstance(explain(error), StoreFullError):
                raise
        self._files.give_up_reserve()
        try:
            return operation()
        finally:
            self._files.take_reserve()

    async def _keep_sweeping(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_seconds)
            try:
                await self.purge()
            except StoreUnavailableError as error:
                logger.warning("expired or deleted memories could not be removed: %s", error)

    async def _stop_sweeper(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeper
            self._sweeper = None


class _Connection:
    """A connection and the thread that owns it; operations run one after the other."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    async def open(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=self._name)
        self._connection = await self._call(connect)

    async def run(self, operation: Operation[T]) -> T:
        connection = self._connection
        if connection is None:
            raise not_open("SQLite")
        return await self._call(lambda: operation(connection))

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if self._thread is not None:
            try:
                if connection is not None:
                    await self._call(connection.close)
            finally:
                self._thread.shutdown()
                self._thread = None

    async def _call(self, operation: Callable[[], T]) -> T:
        with translate_errors(FOREIGN_ERRORS, explain):
            return await asyncio.get_running_loop().run_in_executor(self._thread, operation)


def _check_integrity(connection: sqlite3.Connection) -> None:
    """Refuse a damaged file, as far as a check finds the damage in time.

    Raises:
        sqlite3.DatabaseError: The file is damaged.
    """
    end = time.monotonic() + CHECK_SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > end, PROGRESS_INSTRUCTIONS)
    try:
        (finding,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        logger.info("the SQLite file is large: only a part of it was checked for damage")
        return
    finally:
        connection.set_progress_handler(None, 0)
    if finding != "ok":
        damaged = sqlite3.DatabaseError("quick_check")
        damaged.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise damaged


def _create_tables(connection: sqlite3.Connection) -> None:
    """Create what is missing, in one transaction: an end in between leaves the file as it was."""
    for pragma in PRAGMAS:
        connection.execute(pragma)
    with _transaction(connection):
        columns = connection.execute("PRAGMA table_info(memories)").fetchall()
        if any(name == "memory_id" for _, name, *_ in columns):  # a file from before tenants
            connection.execute("ALTER TABLE memories RENAME COLUMN memory_id TO key")
        for statement in TABLES:
            connection.execute(statement)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version < LISTED:  # a new file, or one from before lists
            _list_all(connection)
        if version < COUNTED:
            count_all(connection)
            connection.execute(f"PRAGMA user_version = {COUNTED}")


def _list_all(connection: sqlite3.Connection) -> None:
    """Fill the index of lists from the records."""
    connection.execute("DELETE FROM entries")
    query = "SELECT rowid, key FROM memories WHERE typeof(record) = 'blob'"  # the rest is damaged
    for row_id, key in connection.execute(query):
        head = _read_head(connection, *split_key(key), row_id)
        if head is not None:
            _add_entries(connection, head)


@contextmanager
def _transaction(connection: sqlite3.Connection, mode: str = "IMMEDIATE") -> Iterator[None]:
    """Run statements as one transaction: none of them has an effect where one fails."""
    connection.execute(f"BEGIN {mode}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself rolls back after some errors
            connection.execute("ROLLBACK")
        raise


def _insert(connection: sqlite3.Connection, memory: StoredMemory, quota: Quota) -> None:
    _remove_expired(connection)
    with _transaction(connection):
        usage = select_usage(connection, memory.tenant)
        if not _add(connection, memory):
            raise MemoryExistsError("a memory of this id exists")
        quota.check(usage, select_usage(connection, memory.tenant) - usage)


def _add(connection: sqlite3.Connection, memory: StoredMemory) -> bool:
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


def _select_heads(
    connection: sqlite3.Connection, tenant: str, tag: str, before: str, count: int
) -> list[tuple[str, MemoryHead | None]]:
    with _transaction(connection, "DEFERRED"):  # what is selected can be read
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


def _select(connection: sqlite3.Connection, key: str) -> object:
    row: tuple[object] | None = connection.execute(
        f"SELECT record FROM memories WHERE key = ? AND {ALIVE}",  # noqa: S608
        (key, now()),
    ).fetchone()
    if row is None:
        raise not_found()
    return row[0]


def _update(
    connection: sqlite3.Connection, old: StoredMemory, new: StoredMemory, quota: Quota
) -> bool:
    before, after = pack(old), pack(new)
    with _transaction(connection):
        usage = select_usage(connection, old.tenant)
        updated = connection.execute(
            "UPDATE memories SET record = ?, expires_at = ?"  # noqa: S608
            f" WHERE key = ? AND record = ? AND {ALIVE}",
            (after, _expiry(new), old.key, before, now()),
        )
        if updated.rowcount == 0:
            _select(connection, old.key)  # raises where it is gone
            return False
        quota.check(usage, Usage(0, len(after) - len(before)))
        if new.tags != old.tags:
            connection.execute("DELETE FROM entries WHERE key = ?", (old.key,))
            _add_entries(connection, new)
    _truncate_log(connection)
    return True


def _delete(connection: sqlite3.Connection, keys: Mapping[str, str]) -> list[str]:
    """Delete memories by their keys; return the ids of those that were there."""
    query = f"DELETE FROM memories WHERE key = ? AND {ALIVE}"  # noqa: S608
    with _transaction(connection):
        deleted = [
            memory_id
            for memory_id, key in keys.items()
            if connection.execute(query, (key, now())).rowcount
        ]
    if deleted:
        _truncate_log(connection)
    return deleted


def _remove_expired(connection: sqlite3.Connection) -> None:
    removed = connection.execute("DELETE FROM memories WHERE expires_at <= ?", (now(),))
    if removed.rowcount:
        _truncate_log(connection)


def _truncate_log(connection: sqlite3.Connection) -> bool:
    """Empty the write-ahead log, in which deleted rows stay until then; False while it is read."""
    busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not busy
