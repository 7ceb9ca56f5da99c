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

from gradmem_core.errors import MemoryNotFoundError, StoreFullError, StoreUnavailableError
from gradmem_core.tenants import DEFAULT_TENANT
from service.stores import MemoryFilter, sqlite
from service.stores.sqlite import SqliteStore
from tests.service.stored import SECRET, a_memory, fill, soon

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
        suffixes = {file.name.removeprefix(path.name) for file in path.parent.iterdir()}
        assert suffixes == {"", "-wal", "-shm", "-reserve"}


async def test_sweeps_find_what_has_expired_by_an_index(path: Path) -> None:
    async with SqliteStore(path):
        with sqlite3.connect(path) as connection:
            for table in ("memories", "records", "jobs"):
                query = f"EXPLAIN QUERY PLAN DELETE FROM {table} WHERE expires_at <= 1"
                assert connection.execute(query).fetchone()[3].startswith("SEARCH")
        connection.close()


async def test_a_deleted_memory_leaves_no_trace_in_the_files(path: Path) -> None:
    async with SqliteStore(path) as store:
        memory = a_memory(SECRET)
        await store.put(memory)
        assert SECRET in files_of(path)
        await store.delete(memory.tenant, memory.memory_id)
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
        assert "could not be removed" in caplog.text
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
                store.probe(),
                store.delete(memory.tenant, memory.memory_id),
                store.replace(memory, replace(memory, blob=b"new")),
            ):
                with pytest.raises(StoreUnavailableError):
                    await operation
            assert await store.get(memory.tenant, memory.memory_id) == memory
        await store.delete(memory.tenant, memory.memory_id)


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


async def test_reads_do_not_wait_for_blocked_writes(path: Path) -> None:
    async with SqliteStore(path, busy_seconds=30) as store:
        memory = a_memory()
        await store.put(memory)
        with write_locked(path):
            writes = [asyncio.create_task(store.put(a_memory())) for _ in range(3)]
            await asyncio.sleep(0.1)
            async with asyncio.timeout(10):
                assert await store.get(memory.tenant, memory.memory_id) == memory
            assert not any(write.done() for write in writes)
        await asyncio.gather(*writes)


async def test_a_cancelled_put_leaves_no_memory(path: Path) -> None:
    async with SqliteStore(path, busy_seconds=30) as store:
        with write_locked(path):
            puts = [asyncio.create_task(store.put(a_memory())) for _ in range(5)]
            await asyncio.sleep(0.1)  # the first waits for the lock, the others for the first
            for put in puts:
                put.cancel()
            await asyncio.gather(*puts, return_exceptions=True)
    assert count_memories(path) == 0


async def test_a_memory_that_expired_by_its_record_is_not_found(path: Path) -> None:
    async with SqliteStore(path) as store:
        memory = a_memory(expires_at=soon(1))
        await store.put(memory)
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("UPDATE memories SET expires_at = NULL")
        connection.close()
        assert await store.get(memory.tenant, memory.memory_id) == memory
        await asyncio.sleep(1.05)
        with pytest.raises(MemoryNotFoundError):
            await store.get(memory.tenant, memory.memory_id)
        with pytest.raises(MemoryNotFoundError):
            await store.replace(memory, replace(memory, blob=b"new"))


async def test_bytes_deleted_beside_a_reader_are_removed_later(path: Path) -> None:
    async with SqliteStore(path, busy_seconds=0) as store:
        memory = a_memory(SECRET)
        await store.put(memory)
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM memories").fetchone()
        await store.delete(memory.tenant, memory.memory_id)
        with pytest.raises(StoreUnavailableError, match="another process reads"):
            await store.purge()
        assert SECRET[:30] in files_of(path)
        reader.close()
        await store.purge()
        assert SECRET[:30] not in files_of(path)


def count_memories(path: Path) -> int:
    connection = sqlite3.connect(path)
    (count,) = connection.execute("SELECT count(*) FROM memories").fetchone()
    connection.close()
    return int(count)


# Causes


async def expect_not_to_open(path: Path, cause: str) -> None:
    with pytest.raises(StoreUnavailableError, match=cause) as caught:
        await SqliteStore(path).open()
    assert str(path) not in caught.value.message


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    await expect_not_to_open(tmp_path / "missing" / "memories.db", "folder does not exist")


async def test_a_file_in_place_of_the_folder_is_named(path: Path) -> None:
    path.touch()
    await expect_not_to_open(path / "memories.db", "its folder is a file")


async def test_a_folder_in_place_of_the_file_is_unavailable(tmp_path: Path) -> None:
    await expect_not_to_open(tmp_path, "cannot be opened")


@pytest.mark.parametrize("size", [100, 4096])
async def test_a_file_that_is_no_database_is_named(path: Path, size: int) -> None:
    path.write_bytes(b"not a database " * size)
    await expect_not_to_open(path, "not a SQLite database")


async def test_a_damaged_database_does_not_open(path: Path) -> None:
    async with SqliteStore(path) as store:
        await store.put(a_memory(os.urandom(50_000)))
    path.write_bytes(path.read_bytes()[:20_000])
    await expect_not_to_open(path, "is damaged")


async def test_a_read_only_file_is_unavailable() -> None:
    # Not in tmp_path, which is closed to the user that root becomes here.
    with unprivileged(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memories.db"
        path.touch(mode=0o400)
        await expect_not_to_open(path, r"cannot be opened|cannot be written")


async def test_a_lock_is_named(path: Path) -> None:
    async with SqliteStore(path, busy_seconds=0) as store:
        with write_locked(path), pytest.raises(StoreUnavailableError, match="is locked"):
            await store.put(a_memory())


async def test_a_file_too_large_to_check_in_time_opens(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "CHECK_SECONDS", -1)
    monkeypatch.setattr(sqlite, "PROGRESS_INSTRUCTIONS", 1)
    caplog.set_level("INFO")
    async with SqliteStore(path) as store:
        await store.probe()
    assert "only a part of it was checked" in caplog.text


@pytest.mark.parametrize("suffix", ["", "-wal"])
async def test_a_removed_file_takes_no_memories(path: Path, suffix: str) -> None:
    async with SqliteStore(path) as store:
        memory = a_memory()
        await store.put(memory)
        path.with_name(path.name + suffix).unlink()
        for operation in (
            store.put(a_memory()),
            store.probe(),
            store.delete(memory.tenant, memory.memory_id),
        ):
            with pytest.raises(StoreUnavailableError, match="removed or replaced"):
                await operation


@pytest.mark.parametrize("moved", ["before", "between"])
async def test_a_put_that_failed_is_gone_when_the_file_is_put_back(path: Path, moved: str) -> None:
    away = path.parent / "away"
    away.mkdir()
    async with SqliteStore(path, busy_seconds=60) as store:
        files = [path, path.with_name(path.name + "-wal")]
        for file in files:
            assert file.exists()
        with write_locked(path):
            if moved == "before":
                move(files, away)
            put = asyncio.create_task(store.put(a_memory()))
            await asyncio.sleep(0.3)  # now it waits for the lock
            if moved == "between":
                move(files, away)
        with pytest.raises(StoreUnavailableError, match="removed or replaced"):
            await put
        move([away / file.name for file in files], path.parent)
    assert count_memories(path) == 0


def move(files: list[Path], folder: Path) -> None:
    for file in files:
        file.rename(folder / file.name)


@pytest.mark.parametrize("ended", ["before", "between"])
async def test_memories_from_before_lists_are_listed(path: Path, ended: str) -> None:
    """Also where an older service ended between creating the index and filling it."""
    memory = a_memory()
    async with SqliteStore(path) as store:
        await store.put(memory)
    connection = sqlite3.connect(path, isolation_level=None)
    if ended == "before":
        connection.execute("DROP TRIGGER memories_deleted")
        connection.execute("DROP TABLE entries")
    else:
        connection.execute("DELETE FROM entries")
    connection.execute("PRAGMA user_version = 0")
    connection.close()
    async with SqliteStore(path) as store:
        listed = await store.list_memories(DEFAULT_TENANT, MemoryFilter(), limit=10)
        assert [head.key for head in listed.memories] == [memory.key]


async def test_an_index_that_could_not_be_filled_is_filled_later(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SqliteStore(path) as store:
        for _ in range(50):
            await store.put(a_memory(metadata={str(number): "" for number in range(16)}))
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(
        "DROP TRIGGER memories_deleted; DROP TABLE entries; VACUUM; PRAGMA user_version = 0"
    )
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.close()
    with monkeypatch.context() as small:
        limit = f"PRAGMA max_page_count = {pages}"
        small.setattr(sqlite, "PRAGMAS", (*sqlite.PRAGMAS, limit, "PRAGMA cache_size = 1"))
        with pytest.raises(StoreFullError):
            await SqliteStore(path).open()
    async with SqliteStore(path) as store:
        listed = await store.list_memories(DEFAULT_TENANT, MemoryFilter(), limit=100)
        assert len(listed.memories) == 50


async def test_a_full_disk_refuses_memories_but_deletes(small_disk: Path) -> None:
    async with SqliteStore(small_disk / "memories.db") as store:
        memories = [a_memory(os.urandom(200_000)) for _ in range(20)]
        for memory in memories:
            await store.put(memory)
        await store.purge()  # else the log has room left
        fill(small_disk)
        with pytest.raises(StoreFullError, match="disk is full"):
            await store.put(a_memory(os.urandom(200_000)))
        with pytest.raises(StoreFullError):
            await store.probe()
        for memory in memories:
            assert await store.get(memory.tenant, memory.memory_id) == memory
            await store.delete(memory.tenant, memory.memory_id)
    async with SqliteStore(small_disk / "memories.db") as store:
        with pytest.raises(MemoryNotFoundError):
            await store.get(DEFAULT_TENANT, memories[0].memory_id)


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
