"""The SQLite store beyond the behaviour of every store: private files, no traces, outages."""

import asyncio
import os
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gradmem_core.errors import BlobError, StoreUnavailableError
from service.stores.sqlite import SqliteStore
from tests.service.stored import SECRET, a_memory, soon

pytestmark = pytest.mark.anyio


def files_of(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.glob(path.name + "*"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memories.db"


async def test_only_the_owner_can_read_the_files(path: Path) -> None:
    path.touch(mode=0o644)
    async with SqliteStore(path) as store:
        await store.put(a_memory())
        modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        assert modes == {0o600}
        assert len(list(path.parent.iterdir())) == 3


async def test_a_deleted_memory_leaves_no_trace_in_the_files(path: Path) -> None:
    async with SqliteStore(path) as store:
        memory = a_memory(SECRET)
        await store.put(memory)
        assert SECRET in files_of(path)
        await store.delete(memory.memory_id)
        assert SECRET[:30] not in files_of(path)


@pytest.mark.parametrize("size", [10, len(SECRET), 3 * len(SECRET)])
async def test_a_replaced_memory_leaves_no_trace_in_the_files(path: Path, size: int) -> None:
    async with SqliteStore(path) as store:
        memory = a_memory(SECRET)
        await store.put(memory)
        assert SECRET in files_of(path)
        assert await store.replace(memory, replace(memory, blob=os.urandom(size)))
        assert SECRET[:30] not in files_of(path)


@pytest.mark.parametrize("occasion", ["put", "open", "sweep"])
async def test_an_expired_memory_is_removed_from_the_files(path: Path, occasion: str) -> None:
    async with SqliteStore(path, sweep_seconds=0.05 if occasion == "sweep" else 60) as store:
        await store.put(a_memory(SECRET, expires_at=soon(0.5)))
        assert SECRET in files_of(path)
        await asyncio.sleep(0.8)
        if occasion == "put":
            await store.put(a_memory())
        if occasion == "open":
            await store.close()
            await store.open()
        assert SECRET[:30] not in files_of(path)


async def test_the_sweep_goes_on_after_an_outage(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with SqliteStore(path, busy_seconds=0, sweep_seconds=0.05) as store:
        await store.put(a_memory(SECRET, expires_at=soon(0.1)))
        with write_locked(path):
            await asyncio.sleep(0.3)
        assert "expired memories could not be removed" in caplog.text
        await asyncio.sleep(0.5)
        assert SECRET[:30] not in files_of(path)


@contextmanager
def write_locked(path: Path) -> Iterator[None]:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.close()


async def test_a_locked_sqlite_file_is_unavailable_to_writes(path: Path) -> None:
    async with SqliteStore(path, busy_seconds=0.1) as store:
        memory = a_memory()
        await store.put(memory)
        with write_locked(path):
            for operation in (
                store.put(a_memory()),
                store.ping(),
                store.delete(memory.memory_id),
                store.replace(memory, replace(memory, blob=b"new")),
            ):
                with pytest.raises(StoreUnavailableError):
                    await operation
            assert await store.get(memory.memory_id) == memory
        await store.delete(memory.memory_id)


async def test_the_event_loop_keeps_running_while_sqlite_waits(path: Path) -> None:
    async with SqliteStore(path, busy_seconds=0.5) as store:
        with write_locked(path):
            waiting = asyncio.create_task(store.put(a_memory()))
            turns = 0
            while not waiting.done():
                await asyncio.sleep(0.01)
                turns += 1
        assert turns > 10
        assert isinstance(waiting.exception(), StoreUnavailableError)


async def expect_not_to_open(path: Path) -> None:
    with pytest.raises(StoreUnavailableError):
        await SqliteStore(path).open()


async def test_a_missing_folder_is_unavailable(tmp_path: Path) -> None:
    await expect_not_to_open(tmp_path / "missing" / "memories.db")


async def test_a_folder_in_place_of_the_file_is_unavailable(tmp_path: Path) -> None:
    await expect_not_to_open(tmp_path)


@pytest.mark.parametrize("size", [1, 100, 4096])
async def test_a_file_that_is_no_database_is_unavailable(path: Path, size: int) -> None:
    path.write_bytes(b"not a database " * size)
    await expect_not_to_open(path)


async def test_a_database_damaged_later_is_unavailable_or_a_blob_error(path: Path) -> None:
    memory = a_memory(os.urandom(50_000))
    async with SqliteStore(path) as store:
        await store.put(memory)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises((StoreUnavailableError, BlobError)):
        async with SqliteStore(path) as store:
            await store.get(memory.memory_id)


async def test_a_read_only_file_is_unavailable() -> None:
    # Not in tmp_path, which is closed to the user that root becomes here.
    with unprivileged(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memories.db"
        path.touch(mode=0o400)
        await expect_not_to_open(path)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Be an ordinary user: root may write to a read-only file."""
    user = os.geteuid()
    if user != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
