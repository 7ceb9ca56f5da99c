"""Both stores keep the same promises, and their outages are errors of our tree."""

import asyncio
import os
import signal
import sqlite3
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import redis.exceptions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradmem_core.errors import BlobError, MemoryNotFoundError, StoreUnavailableError
from service.stores import MemoryExistsError, Store, StoredMemory, create_store, new_memory_id
from service.stores import redis as redis_store
from service.stores import sqlite as sqlite_store
from service.stores.base import pack, translated, unpack
from service.stores.redis import KEY_PREFIX
from service.stores.sqlite import SqliteStore
from tests.redis_server import RedisServer

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
SECRET = b"a memory nobody else may read " * 50


def a_memory(blob: bytes = b"\x00\xffblob", **fields: object) -> StoredMemory:
    given_fields = {"memory_id": new_memory_id(), "metadata": {"title": "größer 東京 🗝"}} | fields
    return StoredMemory(model="kv-16", blob=blob, created_at=NOW, **given_fields)  # type: ignore[arg-type]


def soon(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


@pytest.fixture(params=["sqlite", "redis"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/memories.db"
    return str(request.getfixturevalue("redis_server"))


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    async with create_store(store_url) as opened:
        yield opened


# What every store promises


@pytest.mark.parametrize("expires_at", [None, NOW + timedelta(days=365_000, microseconds=1)])
async def test_get_returns_what_put_stored(store: Store, expires_at: datetime | None) -> None:
    memory = a_memory(bytes(range(256)) * 4096, expires_at=expires_at)
    await store.put(memory)
    assert await store.get(memory.memory_id) == memory


blobs = st.builds(
    a_memory,
    blob=st.binary(max_size=4096),
    metadata=st.dictionaries(st.text(), st.text(), max_size=5),
    expires_at=st.none()
    | st.datetimes(datetime(2100, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC)),
)


@given(memory=blobs)
@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
async def test_any_memory_survives_a_round_trip(store_url: str, memory: StoredMemory) -> None:
    async with create_store(store_url) as store:
        await store.put(memory)
        assert await store.get(memory.memory_id) == memory


@pytest.mark.parametrize(
    "memory_id", ["0" * 32, "", "A" * 32, "0" * 31, "0" * 32 + "\n", "../x", "\ud800" * 32]
)
async def test_an_id_without_a_memory_is_not_found(store: Store, memory_id: str) -> None:
    with pytest.raises(MemoryNotFoundError):
        await store.get(memory_id)
    with pytest.raises(MemoryNotFoundError):
        await store.delete(memory_id)


async def test_delete_removes_one_memory(store: Store) -> None:
    gone, kept = a_memory(), a_memory()
    await store.put(gone)
    await store.put(kept)
    await store.delete(gone.memory_id)
    with pytest.raises(MemoryNotFoundError):
        await store.get(gone.memory_id)
    with pytest.raises(MemoryNotFoundError):
        await store.delete(gone.memory_id)
    assert await store.get(kept.memory_id) == kept


async def test_an_expired_memory_is_not_found(store: Store) -> None:
    memory = a_memory(expires_at=soon(1))
    await store.put(memory)
    assert await store.get(memory.memory_id) == memory
    await asyncio.sleep(1.05)
    with pytest.raises(MemoryNotFoundError):
        await store.get(memory.memory_id)
    with pytest.raises(MemoryNotFoundError):
        await store.delete(memory.memory_id)


async def test_the_id_of_an_expired_memory_is_free(store: Store) -> None:
    memory = a_memory(expires_at=soon(-1))
    await store.put(memory)
    later = a_memory(memory_id=memory.memory_id)
    await store.put(later)
    assert await store.get(memory.memory_id) == later


async def test_put_does_not_overwrite(store: Store) -> None:
    memory = a_memory(b"first")
    await store.put(memory)
    with pytest.raises(MemoryExistsError):
        await store.put(a_memory(b"second", memory_id=memory.memory_id))
    assert await store.get(memory.memory_id) == memory


async def test_many_at_once(store: Store) -> None:
    memories = [a_memory(os.urandom(20_000)) for _ in range(150)]
    await asyncio.gather(*map(store.put, memories))
    found = await asyncio.gather(*(store.get(memory.memory_id) for memory in memories))
    assert found == memories


async def test_of_many_puts_of_one_id_one_succeeds(store: Store) -> None:
    memory_id = new_memory_id()
    memories = [a_memory(bytes([number]), memory_id=memory_id) for number in range(20)]
    outcomes = await asyncio.gather(*map(store.put, memories), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [
        MemoryExistsError
    ] * 19
    assert await store.get(memory_id) == memories[outcomes.index(None)]


async def test_two_stores_share_what_is_stored(store: Store, store_url: str) -> None:
    memory = a_memory()
    async with create_store(store_url) as other:
        await other.put(memory)
        assert await store.get(memory.memory_id) == memory
        await store.delete(memory.memory_id)
        with pytest.raises(MemoryNotFoundError):
            await other.get(memory.memory_id)


async def test_a_store_can_be_opened_again(store: Store) -> None:
    memory = a_memory()
    await store.put(memory)
    await store.close()
    await store.close()
    for operation in (store.ping(), store.get(memory.memory_id), store.put(a_memory())):
        with pytest.raises(StoreUnavailableError):
            await operation
    await store.open()
    await store.ping()
    assert await store.get(memory.memory_id) == memory


async def test_a_cancelled_operation_leaves_the_store_usable(store: Store) -> None:
    memory = a_memory(b"x" * 1_000_000)
    for delay in (0, 0.001, 0.005):
        task = asyncio.create_task(store.put(a_memory(memory.blob)))
        await asyncio.sleep(delay)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await store.put(memory)
    assert await store.get(memory.memory_id) == memory


# Damaged records


async def put_raw(store_url: str, memory_id: str, record: bytes) -> None:
    if store_url.startswith("sqlite"):
        with sqlite3.connect(store_url.removeprefix("sqlite:///")) as connection:
            connection.execute("INSERT INTO memories VALUES (?, NULL, ?)", (memory_id, record))
        connection.close()
    else:
        async with redis.asyncio.Redis.from_url(store_url) as client:
            await client.set(KEY_PREFIX + memory_id, record)


@pytest.mark.parametrize("size", [0, 3, 11, 12, 40, -1])
async def test_a_cut_record_is_a_blob_error(store: Store, store_url: str, size: int) -> None:
    memory = a_memory()
    await put_raw(store_url, memory.memory_id, pack(memory)[:size])
    with pytest.raises(BlobError, match="damaged"):
        await store.get(memory.memory_id)
    await store.delete(memory.memory_id)


async def test_a_record_under_another_id_is_a_blob_error(store: Store, store_url: str) -> None:
    other = new_memory_id()
    await put_raw(store_url, other, pack(a_memory()))
    with pytest.raises(BlobError, match="another id"):
        await store.get(other)


@given(memory=blobs, data=st.data())
@settings(deadline=None)
def test_any_changed_byte_is_a_blob_error(memory: StoredMemory, data: st.DataObject) -> None:
    record = bytearray(pack(memory))
    record[data.draw(st.integers(0, len(record) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BlobError):
        unpack(memory.memory_id, bytes(record))


def test_the_checksum_covers_where_the_blob_begins() -> None:
    memory = a_memory(b" a blank would pass as the end of the JSON")
    record = bytearray(pack(memory))
    record[11] += 1
    with pytest.raises(BlobError):
        unpack(memory.memory_id, bytes(record))


@pytest.mark.parametrize("record", [None, "text", 7])
def test_a_record_that_is_not_bytes_is_a_blob_error(record: object) -> None:
    with pytest.raises(BlobError):
        unpack(new_memory_id(), record)


# Memories and ids


def test_ids_are_128_random_bits() -> None:
    ids = {new_memory_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(bytes.fromhex(memory_id)) == 16 for memory_id in ids)


def test_repr_holds_no_secret() -> None:
    shown = repr(a_memory(SECRET, metadata={"name": "Jane"}))
    assert "nobody" not in shown
    assert "Jane" not in shown


@pytest.mark.parametrize(
    "fields",
    [
        {"memory_id": "mine"},
        {"expires_at": datetime(2026, 1, 1)},
        {"expires_at": datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1)))},
    ],
)
def test_a_memory_with_a_bad_field_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"memory id|UTC"):
        a_memory(**fields)  # type: ignore[arg-type]


# URLs


def test_relative_sqlite_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sqlite_store.path_of("sqlite:///a/b.db") == tmp_path / "a/b.db"
    assert sqlite_store.path_of("sqlite:////a/b.db") == Path("/a/b.db")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hunter2",
        "hunter2://host",
        "postgres://me:hunter2@host/db",
        "sqlite:hunter2",
        "sqlite://hunter2.db",
        "sqlite:///",
        "sqlite:///:memory:",
        "redis://:hunter2/x@host:6379",
        "redis://:hunter2@host:port",
        "redis://:hunter2@[host",
        "redis://me:hunter2@host?hunter2=1",
        "rediss://:hunter2@host?socket_timeout=hunter2",
    ],
)
def test_a_bad_url_is_a_value_error_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"sqlite:///|the Redis URL") as caught:
        create_store(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_redis_urls_keep_their_password_to_themselves(scheme: str) -> None:
    assert "hunter2" not in repr(vars(create_store(f"{scheme}://:hunter2@host:1/3"))["_redis"])


# Foreign errors


def library_errors(module: object) -> list[type[Exception]]:
    found = [value for value in vars(module).values() if isinstance(value, type)]
    return [value for value in found if issubclass(value, Exception)]


@pytest.mark.parametrize(
    ("error", "foreign"),
    [(error, redis_store.FOREIGN_ERRORS) for error in library_errors(redis.exceptions)]
    + [(error, sqlite_store.FOREIGN_ERRORS) for error in library_errors(sqlite3)]
    + [(error, sqlite_store.FOREIGN_ERRORS) for error in (PermissionError, FileNotFoundError)]
    + [(error, redis_store.FOREIGN_ERRORS) for error in (TimeoutError, ConnectionResetError)],
)
def test_every_error_of_the_libraries_is_translated(
    error: type[Exception], foreign: tuple[type[Exception], ...]
) -> None:
    # Some classes want arguments of their own, which do not matter here.
    cause = error.__new__(error, "in /secret/place")
    with pytest.raises(StoreUnavailableError) as caught, translated("Some", foreign):
        raise cause
    assert caught.value.__cause__ is cause
    assert "secret" not in caught.value.message


def test_the_libraries_have_errors_to_translate() -> None:
    assert redis.exceptions.ReadOnlyError in library_errors(redis.exceptions)
    assert sqlite3.OperationalError in library_errors(sqlite3)


# SQLite


def files_of(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.glob(path.name + "*"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memories.db"


async def test_sqlite_files_are_for_the_owner_only(path: Path) -> None:
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
        assert "Expired memories could not be removed" in caplog.text
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
            for operation in (store.put(a_memory()), store.ping(), store.delete(memory.memory_id)):
                with pytest.raises(StoreUnavailableError):
                    await operation
            assert await store.get(memory.memory_id) == memory
        await store.delete(memory.memory_id)


async def test_the_event_loop_runs_on_while_sqlite_waits(path: Path) -> None:
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


async def test_a_folder_is_unavailable(tmp_path: Path) -> None:
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


# Redis


async def test_redis_removes_an_expired_memory(redis_server: str) -> None:
    memory = a_memory(expires_at=soon(60))
    async with (
        create_store(redis_server) as store,
        redis.asyncio.Redis.from_url(redis_server) as client,
    ):
        await store.put(memory)
        assert memory.expires_at is not None
        left = await client.pttl(KEY_PREFIX + memory.memory_id)
        assert 59_000 < left <= 60_000


async def test_redis_outage_and_recovery(own_redis: RedisServer) -> None:
    async with create_store(own_redis.url) as store:
        memory = a_memory()
        await asyncio.gather(*(store.ping() for _ in range(5)), store.put(memory))
        own_redis.stop()
        await expect_quick_errors(store, memory)
        own_redis.start()
        # The first operation after the outage is a put, which is not repeated.
        await store.put(memory)
        assert await store.get(memory.memory_id) == memory


async def test_a_restart_between_two_puts_goes_unnoticed(own_redis: RedisServer) -> None:
    async with create_store(own_redis.url) as store:
        await store.put(a_memory())
        own_redis.stop()
        own_redis.start()
        await asyncio.sleep(0.05)  # the event loop learns that the connection was closed
        await store.put(a_memory())


async def test_a_redis_that_hangs_is_unavailable(own_redis: RedisServer) -> None:
    async with create_store(own_redis.url) as store:
        memory = a_memory()
        await store.put(memory)
        assert own_redis.process is not None
        own_redis.process.send_signal(signal.SIGSTOP)
        await expect_quick_errors(store, memory)
        own_redis.process.send_signal(signal.SIGCONT)
        assert await store.get(memory.memory_id) == memory


async def expect_quick_errors(store: Store, memory: StoredMemory) -> None:
    operations = (
        store.put(a_memory()),
        store.get(memory.memory_id),
        store.delete(new_memory_id()),
        store.ping(),
    )
    started = time.monotonic()
    outcomes = await asyncio.gather(*operations, return_exceptions=True)
    assert time.monotonic() - started < redis_store.DEADLINE_SECONDS + 1
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailableError] * 4


async def test_a_redis_that_is_not_there_does_not_open(own_redis: RedisServer) -> None:
    own_redis.stop()
    store = create_store(own_redis.url)
    with pytest.raises(StoreUnavailableError):
        await store.open()
    own_redis.start()
    async with store:
        await store.ping()


async def test_a_wrong_password_is_unavailable_and_not_told(redis_server: str) -> None:
    url = redis_server.replace("redis://", "redis://me:hunter2@")
    with pytest.raises(StoreUnavailableError) as caught:
        await create_store(url).open()
    assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"


async def test_tls_with_a_server_that_speaks_none_is_unavailable(redis_server: str) -> None:
    started = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        await create_store(redis_server.replace("redis://", "rediss://")).open()
    assert time.monotonic() - started < redis_store.DEADLINE_SECONDS + 1


async def test_a_full_redis_is_unavailable(own_redis: RedisServer) -> None:
    async with (
        create_store(own_redis.url) as store,
        redis.asyncio.Redis.from_url(own_redis.url) as client,
    ):
        await client.config_set("maxmemory", "1")
        with pytest.raises(StoreUnavailableError):
            await store.put(a_memory())
