"""Connections to a SQLite file, each with a thread of its own."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol, TypeAlias, TypeVar

from service.stores.errors import not_open, translate_errors
from service.stores.heads import to_microseconds
from service.stores.sqlite_errors import FOREIGN_ERRORS, explain

T = TypeVar("T")

PART = 1000
"Rows that `fetch_in_parts` reads at a time."

Statements: TypeAlias = Callable[[sqlite3.Connection], T]
"Runs statements on a connection, and returns what they found."


class RunStatements(Protocol):
    """Runs statements on a connection; raises StoreUnavailableError where that fails."""

    def __call__(self, statements: Statements[T], /) -> Awaitable[T]:
        """Return what the statements return."""


class SqliteConnection:
    """A connection and the thread that owns it; statements run one after the other."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None

    @property
    def is_open(self) -> bool:
        """True between `open` and `close`."""
        return self._connection is not None

    async def open(self, connect: Callable[[], sqlite3.Connection]) -> None:
        """Start the thread, and have it connect."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=self._name)
        self._connection = await self._call(connect)

    async def run(self, statements: Statements[T]) -> T:
        """Run statements in the thread.

        Raises:
            StoreUnavailableError: The connection is not open, or SQLite refused a statement.
        """
        connection = self._connection
        if connection is None:
            raise not_open("SQLite")
        return await self._call(lambda: statements(connection))

    async def close(self) -> None:
        """Close the connection and end the thread."""
        connection, self._connection = self._connection, None
        if self._thread is not None:
            try:
                if connection is not None:
                    await self._call(connection.close)
            finally:
                self._thread.shutdown()
                self._thread = None

    async def _call(self, call: Callable[[], T]) -> T:
        with translate_errors(FOREIGN_ERRORS, explain):
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)


@contextmanager
def transaction(connection: sqlite3.Connection, mode: str = "IMMEDIATE") -> Iterator[None]:
    """Run statements as one transaction: none of them has an effect where one fails."""
    connection.execute(f"BEGIN {mode}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself rolls back after some errors
            connection.execute("ROLLBACK")
        raise


async def fetch_in_parts(read: RunStatements, table: str, *key: str) -> AsyncIterator[Any]:
    """Yield the primary key of each row of a table that is there all the while.

    Args:
        read: Runs statements.
        table: The table.
        key: The columns of its primary key, which are texts.
    """
    columns, last = ", ".join(key), ("",) * len(key)
    query = (
        f"SELECT {columns} FROM {table} WHERE ({columns}) > ({', '.join('?' * len(key))})"  # noqa: S608
        f" ORDER BY {columns} LIMIT {PART}"
    )

    def fetch(connection: sqlite3.Connection) -> list[Any]:
        return connection.execute(query, last).fetchall()

    while rows := await read(fetch):
        for last in rows:
            yield last


def now() -> int:
    """Return the time as the tables hold it, in microseconds since 1970."""
    return to_microseconds(datetime.now(UTC))
