"""The behaviour that both stores share, and the translation of their libraries' errors."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import ModuleType

import pytest
import redis.exceptions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradmem_core.errors import BlobError, MemoryNotFoundError, StoreUnavailableError
from gradmem_core.tenants import DEFAULT_TENANT
from service.stores import (
    MemoryExistsError,
    MemoryFilter,
    Store,
    StoredMemory,
    create_store,
    new_memory_id,
    redis_errors,
    sqlite_errors,
)
from service.stores import base as store_base
from service.stores import sqlite as sqlite_store
from service.stores.errors import translate_errors
from service.stores.record_format import pack, unpack
from service.stores.redis_index import KEY_PREFIX
from tests.service.stored import NOW, SECRET, a_memory, soon

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["sqlite", "redis"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/memories.db"
    return str(request.getfixturevalue("redis_server"))


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    async with create_store(store_url) as opened:
        yield opened


# Every store


@pytest.mark.parametrize("expires_at", [None, NOW + timedelta(days=365_000, microseconds=1)])
async def test_get_returns_what_put_stored(store: Store, expires_at: datetime | None) -> None:
    memory = a_memory(bytes(range(256)) * 4096, expires_at=expires_at)
    await store.put(memory)
    assert await store.get(memory.tenant, memory.memory_id) == memory


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
async def test_any_memory_survives_a_round_trip(store: Store, memory: StoredMemory) -> None:
    await store.put(memory)
    assert await store.get(memory.tenant, memory.memory_id) == memory


@pytest.mark.parametrize(
    "memory_id", ["0" * 32, "", "A" * 32, "0" * 31, "0" * 32 + "\n", "../x", "\ud800" * 32]
)
async def test_an_id_without_a_memory_is_not_found(store: Store, memory_id: str) -> None:
    with pytest.raises(MemoryNotFoundError):
        await store.get(DEFAULT_TENANT, memory_id)
    with pytest.raises(MemoryNotFoundError):
        await store.delete(DEFAULT_TENANT, memory_id)


async def test_memories_that_are_put_together_are_all_there(store: Store) -> None:
    taken, ends, lasts = a_memory(), a_memory(expires_at=soon(60)), a_memory()
    await store.put(taken)
    other = replace(taken, blob=b"other")
    assert await store.put_many([ends, other, lasts]) == [True, False, True]
    assert await store.put_many([]) == []
    for memory in (taken, ends, lasts):
        assert await store.get(memory.tenant, memory.memory_id) == memory


async def test_delete_removes_one_memory(store: Store) -> None:
    deleted, remaining = a_memory(), a_memory()
    await store.put(deleted)
    await store.put(remaining)
    await store.delete(deleted.tenant, deleted.memory_id)
    with pytest.raises(MemoryNotFoundError):
        await store.get(deleted.tenant, deleted.memory_id)
    with pytest.raises(MemoryNotFoundError):
        await store.delete(deleted.tenant, deleted.memory_id)
    assert await store.get(remaining.tenant, remaining.memory_id) == remaining


async def test_many_are_deleted_at_once(store: Store) -> None:
    memories = [a_memory() for _ in range(3)]
    foreign = a_memory(tenant="another")
    for memory in (*memories, foreign):
        await store.put(memory)
    named = [memories[0].memory_id, "mine", new_memory_id(), memories[1].memory_id]
    deleted = await store.delete_many(DEFAULT_TENANT, [*named, foreign.memory_id])
    assert deleted == [memories[0].memory_id, memories[1].memory_id]
    assert await store.delete_many(DEFAULT_TENANT, named) == []
    assert await store.delete_many(DEFAULT_TENANT, []) == []
    for remaining in (memories[2], foreign):
        assert await store.get(remaining.tenant, remaining.memory_id) == remaining


async def test_an_expired_memory_is_not_found(store: Store) -> None:
    memory = a_memory(expires_at=soon(1))
    await store.put(memory)
    assert await store.get(memory.tenant, memory.memory_id) == memory
    await asyncio.sleep(1.05)
    with pytest.raises(MemoryNotFoundError):
        await store.get(memory.tenant, memory.memory_id)
    with pytest.raises(MemoryNotFoundError):
        await store.delete(memory.tenant, memory.memory_id)


async def test_the_id_of_an_expired_memory_is_free(store: Store) -> None:
    memory = a_memory(expires_at=soon(-1))
    await store.put(memory)
    later = a_memory(memory_id=memory.memory_id)
    await store.put(later)
    assert await store.get(memory.tenant, memory.memory_id) == later


async def test_put_does_not_overwrite(store: Store) -> None:
    memory = a_memory(b"first")
    await store.put(memory)
    with pytest.raises(MemoryExistsError):
        await store.put(a_memory(b"second", memory_id=memory.memory_id))
    assert await store.get(memory.tenant, memory.memory_id) == memory


async def test_many_operations_at_once_succeed(store: Store) -> None:
    memories = [a_memory(os.urandom(20_000)) for _ in range(150)]
    await asyncio.gather(*map(store.put, memories))
    stored = await asyncio.gather(
        *(store.get(memory.tenant, memory.memory_id) for memory in memories)
    )
    assert stored == memories


async def test_of_many_puts_of_one_id_one_succeeds(store: Store) -> None:
    memory_id = new_memory_id()
    memories = [a_memory(bytes([number]), memory_id=memory_id) for number in range(20)]
    outcomes = await asyncio.gather(*map(store.put, memories), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [
        MemoryExistsError
    ] * 19
    assert await store.get(DEFAULT_TENANT, memory_id) == memories[outcomes.index(None)]


async def test_two_stores_on_one_url_share_their_memories(store: Store, store_url: str) -> None:
    memory = a_memory()
    async with create_store(store_url) as other:
        await other.put(memory)
        assert await store.get(memory.tenant, memory.memory_id) == memory
        await store.delete(memory.tenant, memory.memory_id)
        with pytest.raises(MemoryNotFoundError):
            await other.get(memory.tenant, memory.memory_id)


async def test_a_store_can_be_opened_again(store: Store) -> None:
    memory = a_memory()
    await store.put(memory)
    await store.close()
    await store.close()
    for operation in (
        store.probe(),
        store.get(memory.tenant, memory.memory_id),
        store.put(a_memory()),
    ):
        with pytest.raises(StoreUnavailableError):
            await operation
    await store.open()
    await store.probe()
    assert await store.get(memory.tenant, memory.memory_id) == memory


async def test_a_cancelled_operation_leaves_the_store_usable(store: Store) -> None:
    memory = a_memory(b"x" * 1_000_000)
    for delay in (0, 0.001, 0.005):
        task = asyncio.create_task(store.put(a_memory(memory.blob)))
        await asyncio.sleep(delay)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await store.put(memory)
    assert await store.get(memory.tenant, memory.memory_id) == memory


# Replacing


async def test_replacing_an_unchanged_memory_keeps_its_expiry(store: Store) -> None:
    old = a_memory(expires_at=soon(1))
    await store.put(old)
    new = replace(old, blob=b"other pages")
    assert await store.replace(old, new)
    assert await store.get(old.tenant, old.memory_id) == new
    await asyncio.sleep(1.05)
    with pytest.raises(MemoryNotFoundError):
        await store.get(old.tenant, old.memory_id)
    with pytest.raises(MemoryNotFoundError):
        await store.replace(new, old)


async def test_a_memory_that_others_changed_is_not_replaced(store: Store) -> None:
    old = a_memory()
    await store.put(old)
    theirs, ours = replace(old, blob=b"theirs"), replace(old, blob=b"ours")
    assert await store.replace(old, theirs)
    assert not await store.replace(old, ours)
    assert await store.get(old.tenant, old.memory_id) == theirs
    assert await store.replace(theirs, ours)


async def test_a_deleted_memory_is_not_replaced(store: Store) -> None:
    memory = a_memory()
    with pytest.raises(MemoryNotFoundError):
        await store.replace(memory, memory)
    await store.put(memory)
    await store.delete(memory.tenant, memory.memory_id)
    with pytest.raises(MemoryNotFoundError):
        await store.replace(memory, replace(memory, blob=b"again"))
    with pytest.raises(MemoryNotFoundError):
        await store.get(memory.tenant, memory.memory_id)


async def test_an_expired_memory_is_not_replaced(store: Store) -> None:
    memory = a_memory(expires_at=soon(-1))
    await store.put(memory)
    with pytest.raises(MemoryNotFoundError):
        await store.replace(memory, replace(memory, blob=b"again"))


async def test_a_memory_is_replaced_only_if_every_field_is_unchanged(store: Store) -> None:
    old = a_memory()
    await store.put(old)
    other = replace(old, metadata={"title": "another"})
    assert not await store.replace(other, replace(old, blob=b"new"))
    assert await store.get(old.tenant, old.memory_id) == old


async def test_of_many_replacements_at_once_one_succeeds(store: Store, store_url: str) -> None:
    old = a_memory()
    await store.put(old)
    news = [replace(old, blob=bytes([number])) for number in range(10)]
    async with create_store(store_url) as other:
        stores = [store, other] * 5
        done = await asyncio.gather(
            *(each.replace(old, new) for each, new in zip(stores, news, strict=True))
        )
    assert done.count(True) == 1
    assert await store.get(old.tenant, old.memory_id) == news[done.index(True)]


# Lists


async def collect(
    store: Store, wanted: MemoryFilter | None = None, *, tenant: str = "acme", limit: int = 2
) -> list[str]:
    """Return the ids of a whole list."""
    ids: list[str] = []
    cursor = None
    while True:
        part = await store.list_memories(
            tenant, wanted or MemoryFilter(), limit=limit, cursor=cursor
        )
        assert len(part.memories) <= limit
        ids += [head.memory_id for head in part.memories]
        cursor = part.cursor
        if cursor is None:
            return ids


@pytest.fixture
async def listing(store: Store) -> AsyncIterator[Store]:
    """A store without memories of the tenant `acme`; the Redis server is shared."""
    yield store
    for memory_id in await collect(store, limit=1000):
        await store.delete("acme", memory_id)


def a_series(count: int, **fields: object) -> list[StoredMemory]:
    """Return memories of `acme`, the newest first."""
    return [
        replace(
            a_memory(**{"tenant": "acme", **fields}),  # type: ignore[arg-type]
            created_at=NOW + timedelta(seconds=-number),
        )
        for number in range(count)
    ]


def ids(memories: Iterable[StoredMemory]) -> list[str]:
    return [memory.memory_id for memory in memories]


async def test_a_list_has_the_newest_first(listing: Store) -> None:
    memories = a_series(5)
    for index in (2, 0, 4, 3, 1):
        await listing.put(memories[index])
    for limit in (1, 2, 5, 6):
        assert await collect(listing, limit=limit) == ids(memories)


async def test_a_list_has_every_field_but_the_blob(listing: Store) -> None:
    (memory,) = a_series(1, name="größer", expires_at=soon(60), metadata={"k" * 128: "🗝" * 1024})
    await listing.put(memory)
    part = await listing.list_memories("acme", MemoryFilter(), limit=1)
    fields = {name: value for name, value in vars(memory).items() if name != "blob"}
    assert [vars(head) for head in part.memories] == [fields]


async def test_memories_of_one_moment_are_all_listed(listing: Store) -> None:
    memories = [a_memory(tenant="acme") for _ in range(5)]
    for memory in memories:
        await listing.put(memory)
    assert await collect(listing) == sorted(ids(memories), reverse=True)


async def test_a_tenant_lists_only_its_own(listing: Store) -> None:
    mine, other = a_series(1)[0], a_memory(tenant="another")
    for memory in (mine, other):
        await listing.put(memory)
    assert await collect(listing) == [mine.memory_id]
    assert other.memory_id in await collect(listing, tenant="another", limit=100)


async def test_a_list_goes_on_while_others_store_and_delete(listing: Store) -> None:
    memories = a_series(6)
    for memory in memories[1:]:
        await listing.put(memory)
    first = await listing.list_memories("acme", MemoryFilter(), limit=2)
    await listing.put(memories[0])
    for deleted in (memories[2], memories[4]):
        await listing.delete("acme", deleted.memory_id)
    rest = await listing.list_memories("acme", MemoryFilter(), limit=9, cursor=first.cursor)
    assert [head.memory_id for head in rest.memories] == ids([memories[3], memories[5]])


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (MemoryFilter(metadata={"user": "a"}), [0, 2]),
        (MemoryFilter(metadata={"user": "a", "kind": "note"}), [2]),
        (MemoryFilter(metadata={"user": ""}), []),
        (MemoryFilter(model="other"), [3]),
        (MemoryFilter(name="mine"), [1, 2]),
        (MemoryFilter(name="mine", model="kv-16", metadata={"user": "a"}), [2]),
        (MemoryFilter(expires_before=NOW + timedelta(days=20_000)), [1]),
    ],
)
async def test_a_list_is_filtered(
    listing: Store, wanted: MemoryFilter, expected: list[int]
) -> None:
    memories = a_series(4, metadata={})
    later = NOW + timedelta(days=30_000)
    memories[0] = replace(memories[0], metadata={"user": "a"}, expires_at=later)
    memories[1] = replace(memories[1], name="mine", expires_at=NOW + timedelta(days=10_000))
    memories[2] = replace(memories[2], name="mine", metadata={"user": "a", "kind": "note"})
    memories[3] = replace(memories[3], model="other", metadata={"user": "b"})
    for memory in memories:
        await listing.put(memory)
    assert await collect(listing, wanted, limit=1) == ids(memories[index] for index in expected)


async def test_a_list_walks_a_bounded_part_at_a_time(
    listing: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_base, "MAX_WALKED", 3)
    memories = a_series(9)
    memories[8] = replace(memories[8], model="other")
    for memory in memories:
        await listing.put(memory)
    wanted = MemoryFilter(model="other", metadata=memories[0].metadata)
    part = await listing.list_memories("acme", wanted, limit=1)
    assert not part.memories
    assert part.cursor is not None
    assert await collect(listing, wanted) == [memories[8].memory_id]


async def test_an_expired_memory_is_not_listed(listing: Store) -> None:
    memories = a_series(2)
    memories[0] = replace(memories[0], expires_at=soon(1))
    for memory in memories:
        await listing.put(memory)
    assert len(await collect(listing)) == 2
    await asyncio.sleep(1.05)
    assert await collect(listing) == [memories[1].memory_id]


async def test_a_replaced_memory_is_listed_as_it_is_now(listing: Store) -> None:
    (old,) = a_series(1, metadata={"user": "a"}, name="old", expires_at=soon(1))
    await listing.put(old)
    new = replace(old, metadata={"user": "b"}, name=None, expires_at=None)
    assert await listing.replace(old, new)
    await asyncio.sleep(1.05)
    assert await listing.get("acme", old.memory_id) == new
    assert await collect(listing, MemoryFilter(metadata={"user": "b"})) == [new.memory_id]
    assert await collect(listing) == [new.memory_id]
    for gone in (MemoryFilter(metadata={"user": "a"}), MemoryFilter(name="old")):
        assert await collect(listing, gone) == []


async def test_a_failed_replacement_changes_no_list(listing: Store) -> None:
    (old,) = a_series(1, metadata={"user": "a"})
    await listing.put(old)
    theirs = replace(old, metadata={"user": "b"})
    assert await listing.replace(old, theirs)
    assert not await listing.replace(old, replace(old, metadata={"user": "c"}))
    for user, expected in (("a", []), ("b", [old.memory_id]), ("c", [])):
        assert await collect(listing, MemoryFilter(metadata={"user": user})) == expected


async def test_probes_are_not_listed(listing: Store) -> None:
    probe = store_base.probe_memory()
    await listing.put(probe)
    assert probe.memory_id not in await collect(listing, tenant=DEFAULT_TENANT, limit=100)
    await listing.delete(probe.tenant, probe.memory_id)


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
        await store.get(memory.tenant, memory.memory_id)
    await store.delete(memory.tenant, memory.memory_id)


async def test_a_record_under_another_id_is_a_blob_error(store: Store, store_url: str) -> None:
    other = new_memory_id()
    await put_raw(store_url, other, pack(a_memory()))
    with pytest.raises(BlobError, match="another id"):
        await store.get(DEFAULT_TENANT, other)


@given(memory=blobs, data=st.data())
@settings(deadline=None)
def test_any_changed_byte_is_a_blob_error(memory: StoredMemory, data: st.DataObject) -> None:
    record = bytearray(pack(memory))
    record[data.draw(st.integers(0, len(record) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BlobError):
        unpack(DEFAULT_TENANT, memory.memory_id, bytes(record))


def test_the_checksum_covers_where_the_blob_begins() -> None:
    memory = a_memory(b" a blank would pass as the end of the JSON")
    record = bytearray(pack(memory))
    record[11] += 1
    with pytest.raises(BlobError):
        unpack(DEFAULT_TENANT, memory.memory_id, bytes(record))


@pytest.mark.parametrize("record", [None, "text", 7])
def test_a_record_that_is_not_bytes_is_a_blob_error(record: object) -> None:
    with pytest.raises(BlobError):
        unpack(DEFAULT_TENANT, new_memory_id(), record)


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
    assert sqlite_store.parse_path("sqlite:///a/b.db") == tmp_path / "a/b.db"
    assert sqlite_store.parse_path("sqlite:////a/b.db") == Path("/a/b.db")


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
        "redis+cluster://:hunter2@host?hunter2=1",
        "redis+cluster://:hunter2@host:port",
        "redis+sentinel://:hunter2@host:port/service",
        "redis+sentinel://:hunter2@host:26379",
        "redis+sentinel://:hunter2@/service",
        "redis+sentinel://:hunter2@host/service?hunter2=1",
    ],
)
def test_a_bad_url_is_a_value_error_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"sqlite:///|the Redis URL") as caught:
        create_store(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_a_redis_store_keeps_its_password_out_of_repr(scheme: str) -> None:
    assert "hunter2" not in repr(vars(create_store(f"{scheme}://:hunter2@host:1/3"))["_redis"])


# Foreign errors


def library_errors(module: object) -> list[type[Exception]]:
    classes = [value for value in vars(module).values() if isinstance(value, type)]
    return [value for value in classes if issubclass(value, Exception)]


@pytest.mark.parametrize(
    ("error", "library"),
    [(error, redis_errors) for error in library_errors(redis.exceptions)]
    + [(error, sqlite_errors) for error in library_errors(sqlite3)]
    + [(error, sqlite_errors) for error in (PermissionError, FileNotFoundError)]
    + [(error, redis_errors) for error in (TimeoutError, ConnectionResetError)],
)
def test_every_error_of_the_libraries_is_translated(
    error: type[Exception], library: ModuleType
) -> None:
    # Some classes want arguments of their own, which do not matter here.
    cause = error.__new__(error, "in /secret/place")
    with pytest.raises(StoreUnavailableError) as caught, _translate(library):
        raise cause
    assert caught.value.__cause__ is cause
    assert "secret" not in caught.value.message


def _translate(library: ModuleType) -> AbstractContextManager[None]:
    return translate_errors(library.FOREIGN_ERRORS, library.explain)


def test_the_libraries_have_errors_to_translate() -> None:
    assert redis.exceptions.ReadOnlyError in library_errors(redis.exceptions)
    assert sqlite3.OperationalError in library_errors(sqlite3)
