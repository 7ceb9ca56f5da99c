"""A store in a SQLite file, which needs no server."""

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from gradmem_core.errors import StoreFullError, StoreUnavailableError
from service.stores.base import Store
from service.stores.errors import check_memory_id, refuse_expired
from service.stores.heads import MemoryHead, memory_key, split_key
from service.stores.record_format import StoredMemory, unpack
from service.stores.sqlite_connection import (
    SqliteConnection,
    Statements,
    fetch_in_parts,
    transaction,
)
from service.stores.sqlite_errors import explain
from service.stores.sqlite_files import SqliteFiles
from service.stores.sqlite_jobs import JOB_TABLES, SqliteJobs, remove_expired_jobs
from service.stores.sqlite_memories import (
    MEMORY_TABLES,
    delete_memories,
    index_all,
    insert_memory,
    insert_within_quota,
    remove_expired_memories,
    select_heads,
    select_record,
    truncate_log,
    update_memory,
)
from service.stores.sqlite_records import (
    RECORD_TABLES,
    SqliteRecords,
    count_all_records,
    remove_expired_records,
)
from service.stores.sqlite_usage import USAGE_TABLES, count_all, select_total_usage, select_usage
from service.stores.usage import NO_QUOTA, Quota, Usage

T = TypeVar("T")

SCHEME = "sqlite:///"

# journal_mode: readers and writers do not wait for each other.
# secure_delete: a deleted memory is overwritten with zeros.
PRAGMAS = ("PRAGMA journal_mode = WAL", "PRAGMA secure_delete = ON")
TABLES = (
    *MEMORY_TABLES,
    """CREATE TABLE IF NOT EXISTS keys (
        key_id TEXT PRIMARY KEY NOT NULL,
        record TEXT NOT NULL
    )""",
    *RECORD_TABLES,
    *USAGE_TABLES,
    *JOB_TABLES,
)
LISTED, COUNTED, GROUPED = 1, 2, 3
"""The file's `user_version` once all its memories are in the index of lists, once what each tenant
has is counted, too, and once its records are."""
CHECK_SECONDS = 5.0
"Longest time of the integrity check at the start; a large file is checked in part."
PROGRESS_INSTRUCTIONS = 10_000
"Instructions of SQLite's machine between two looks at the clock."

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
        self._writer = SqliteConnection("sqlite-writer")
        self._reader = SqliteConnection("sqlite-reader")
        self.records = SqliteRecords(self._reader.run, self._write)
        self.jobs = SqliteJobs(self._reader.run, self._write)
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
            insert_within_quota(connection, memory, quota)
            try:
                self._files.check_linked()
            except StoreUnavailableError:  # the file may be put back
                delete_memories(connection, {memory.memory_id: memory.key})
                raise

        await self._write(insert)

    async def put_many(self, memories: Sequence[StoredMemory]) -> list[bool]:
        """See `Store.put_many`; all or none are published."""

        def insert(connection: sqlite3.Connection) -> list[bool]:
            with transaction(connection):
                return [insert_memory(connection, memory) for memory in memories]

        return await self._write(insert)

    async def get(self, tenant: str, memory_id: str) -> StoredMemory:
        """See `Store.get`."""
        check_memory_id(memory_id)
        key = memory_key(tenant, memory_id)
        record = await self._reader.run(lambda connection: select_record(connection, key))
        memory = unpack(tenant, memory_id, record)
        refuse_expired(memory)  # the column may have been changed or damaged
        return memory

    async def replace(self, old: StoredMemory, new: StoredMemory, quota: Quota = NO_QUOTA) -> bool:
        """See `Store.replace`; no copy of the old bytes stays in the files."""
        refuse_expired(old)
        return await self._write(lambda connection: update_memory(connection, old, new, quota))

    async def delete_many(self, tenant: str, memory_ids: Collection[str]) -> list[str]:
        """See `Store.delete_many`; all or none are deleted.

        No copy of the bytes stays in the files. While another process reads them, the bytes stay in
        the write-ahead log: the next sweep after that removes them.
        """
        keys = {memory_id: memory_key(tenant, memory_id) for memory_id in memory_ids}
        return await self._write(
            lambda connection: self._with_reserve(lambda: delete_memories(connection, keys))
        )

    async def _walk(
        self, tenant: str, tag: str, before: str, count: int
    ) -> list[tuple[str, MemoryHead | None]]:
        """See `Store.list_memories`."""
        return await self._reader.run(
            lambda connection: select_heads(connection, tenant, tag, before, count)
        )

    async def total_usage(self) -> Usage:
        """See `Store.total_usage`."""
        return await self._reader.run(select_total_usage)

    async def usage(self, tenant: str) -> Usage:
        """See `Store.usage`."""
        return await self._reader.run(lambda connection: select_usage(connection, tenant))

    async def sweep(self) -> None:
        """See `Store.sweep`."""
        await self._write(
            lambda connection: self._with_reserve(lambda: remove_expired_memories(connection))
        )

    async def scan(self) -> AsyncIterator[tuple[str, str]]:
        """See `Store.scan`."""
        async for (key,) in fetch_in_parts(self._reader.run, "memories", "key"):
            yield split_key(key)

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

    async def _write(self, statements: Statements[T]) -> T:
        """Run statements that change the file, and make sure that it reached the file."""

        def write(connection: sqlite3.Connection) -> T:
            self._files.check_linked()
            result = statements(connection)
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
        self._with_reserve(lambda: remove_expired_memories(connection))
        self._with_reserve(lambda: remove_expired_records(connection))
        self._with_reserve(lambda: remove_expired_jobs(connection))
        emptied = truncate_log(connection)
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
    with transaction(connection):
        columns = connection.execute("PRAGMA table_info(memories)").fetchall()
        if any(name == "memory_id" for _, name, *_ in columns):  # a file from before tenants
            connection.execute("ALTER TABLE memories RENAME COLUMN memory_id TO key")
        for statement in TABLES:
            connection.execute(statement)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version < LISTED:  # a new file, or one from before lists
            index_all(connection)
        if version < COUNTED:
            count_all(connection)
        if version < GROUPED:
            count_all_records(connection)
            connection.execute(f"PRAGMA user_version = {GROUPED}")
