"""`gradmem copy` between SQLite and a real Redis, both ways."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import redis.asyncio
from typer.testing import CliRunner, Result

from benchmarks.faults.redis_server import RedisServer
from gradmem_core.errors import EncryptionKeyError
from service.cli import app
from service.copying import copy_memories
from service.encryption import Keyring, check_keys
from service.jobs.jobs import Jobs
from service.keys import KeyLimits, make_key
from service.schemas import WriteRequest
from service.stores import MemoryFilter, Store, StoredMemory, create_store
from service.stores.record_format import pack
from service.stores.redis import PROVISIONAL_SECONDS
from service.stores.redis_index import KEY_PREFIX
from service.stores.usage import NO_QUOTA
from tests.service.stored import SECRET, a_memory, soon

pytestmark = pytest.mark.anyio

KEY = "0a" * 32
Urls = tuple[str, str]


@pytest.fixture(params=["sqlite to redis", "redis to sqlite"])
def urls(request: pytest.FixtureRequest, tmp_path: Path, own_redis: RedisServer) -> Urls:
    """URLs of two empty stores of different kinds."""
    both = f"sqlite:///{tmp_path}/memories.db", own_redis.url
    return both if request.param == "sqlite to redis" else both[::-1]


@pytest.fixture
async def stores(urls: Urls) -> AsyncIterator[tuple[Store, Store]]:
    async with create_store(urls[0]) as source, create_store(urls[1]) as target:
        yield source, target


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["copy", *arguments])


def in_store(url: str, *memories: StoredMemory) -> None:
    async def put() -> None:
        async with create_store(url) as store:
            for memory in memories:
                await store.put(memory)

    asyncio.run(put())


def memories_of_all_kinds() -> list[StoredMemory]:
    sealed = Keyring([KEY]).seal(a_memory(SECRET, tenant="acme", name="a name"))
    return [a_memory(), a_memory(expires_at=soon(60)), sealed, *(a_memory() for _ in range(40))]


async def test_records_are_copied_as_they_are_and_listed(stores: tuple[Store, Store]) -> None:
    source, target = stores
    memories = memories_of_all_kinds()
    for memory in memories:
        await source.put(memory)
    seen: list[int] = []
    result = await copy_memories(source, target, lambda so_far: seen.append(so_far.copied))
    assert (result.copied, result.present, result.damaged) == (len(memories), 0, [])
    assert seen == sorted(seen)
    assert seen[-1] == len(memories)
    for memory in memories:
        copied = await target.get(memory.tenant, memory.memory_id)
        assert pack(copied) == pack(memory)
    listed = await target.list_memories("acme", MemoryFilter(name="a name"), limit=10)
    assert len(listed.memories) == 1


async def test_what_is_there_already_stays(stores: tuple[Store, Store]) -> None:
    source, target = stores
    old, new = a_memory(), a_memory()
    other = a_memory(b"other", memory_id=old.memory_id)
    await target.put(other)
    for memory in (old, new):
        await source.put(memory)
    first = await copy_memories(source, target, print)
    again = await copy_memories(source, target, print)
    assert (first.copied, first.present) == (1, 1)
    assert (again.copied, again.present) == (0, 2)
    assert await target.get(old.tenant, old.memory_id) == other


async def test_a_copy_that_was_killed_leaves_nothing_provisional(
    tmp_path: Path, own_redis: RedisServer
) -> None:
    memories = [a_memory(), a_memory(expires_at=soon(3600))]
    async with (
        create_store(f"sqlite:///{tmp_path}/memories.db") as source,
        create_store(own_redis.url) as target,
        redis.asyncio.Redis.from_url(own_redis.url) as client,
    ):
        for memory in memories:
            await source.put(memory)
            # as far as `put` has come when the process is killed
            await client.set(KEY_PREFIX + memory.key, pack(memory), ex=PROVISIONAL_SECONDS)
        await copy_memories(source, target, print)
        assert await client.ttl(KEY_PREFIX + memories[0].key) == -1
        assert await client.ttl(KEY_PREFIX + memories[1].key) > PROVISIONAL_SECONDS
        listed = await target.list_memories(memories[0].tenant, MemoryFilter(), limit=10)
        assert len(listed.memories) == 2


async def test_the_target_knows_which_keys_it_needs(stores: tuple[Store, Store]) -> None:
    source, target = stores
    await check_keys(source, Keyring([KEY]))
    await copy_memories(source, target, print)
    with pytest.raises(EncryptionKeyError, match=Keyring([KEY]).ids[0]):
        await check_keys(target, Keyring())
    await check_keys(target, Keyring([KEY]))


def test_damaged_memories_are_named_and_the_others_copied(
    tmp_path: Path, redis_server: str
) -> None:
    path, good, bad = tmp_path / "memories.db", a_memory(), a_memory()
    in_store(f"sqlite:///{path}", good, bad)
    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE memories SET record = ? WHERE key = ?", (pack(bad)[:-1], bad.key)
        )
    connection.close()
    result = run(f"sqlite:///{path}", redis_server, "--json")
    assert result.exit_code == 1
    damaged = [{"tenant": "default", "memory_id": bad.memory_id}]
    assert json.loads(result.stdout) == {"copied": 1, "present": 0, "damaged": damaged}
    assert f"damaged: {bad.memory_id} of tenant default" in result.stderr


def test_keys_are_copied_where_asked_and_revoked_with_the_source(urls: Urls) -> None:
    _, kept = make_key("acme", "read", KeyLimits())
    _, later = make_key("acme", "write", KeyLimits())

    async def save() -> None:
        async with create_store(urls[0]) as store:
            for record in (kept, later):
                await store.save_key(record.key_id, record.model_dump_json())

    async def revoke() -> None:
        async with create_store(urls[0]) as store:
            await store.save_key(later.key_id, later.revoke().model_dump_json())

    async def keys_of_target() -> list[str]:
        async with create_store(urls[1]) as store:
            return await store.list_keys()

    asyncio.run(save())
    assert run(*urls).exit_code == 0
    assert asyncio.run(keys_of_target()) == []
    first = run(*urls, "--keys")
    assert "copied 2 keys; 0 there already" in first.stdout
    asyncio.run(revoke())
    again = json.loads(run(*urls, "--keys", "--json").stdout)
    assert again["keys"] == {"copied": 0, "present": 2}
    assert sorted('"revoked_at":null' in text for text in asyncio.run(keys_of_target())) == [
        False,
        True,
    ]


def test_a_copy_is_recorded_and_named_by_the_environment(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_store(urls[0], a_memory())
    monkeypatch.setenv("GRADMEM_STORE_URL", urls[0])
    result = run("-", urls[1])
    assert result.stdout == "copied 1 memory; 0 there already, 0 damaged\n"
    record = json.loads(result.stderr)
    assert (record["act"], record["memories"]) == ("store.copy", 1)


def test_jobs_that_have_not_ended_are_not_passed_over_in_silence(urls: Urls) -> None:
    async def submit() -> None:
        async with create_store(urls[0]) as store:
            jobs = Jobs(store, Keyring(), most=1, most_ended=1, keep=timedelta(hours=1))
            await jobs.submit("default", [WriteRequest(document="!a|")], NO_QUOTA)

    asyncio.run(submit())
    result = run(*urls)
    assert result.exit_code == 0
    assert "warning: 1 jobs of FROM_URL have not ended" in result.stderr


def test_a_store_is_not_copied_into_itself_nor_out_of_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/memories.db"
    same, missing = run(url, url), run(url, f"sqlite:///{tmp_path}/other.db")
    assert (same.exit_code, missing.exit_code) == (2, 2)
    assert "same store" in same.stderr
    assert "does not exist" in missing.stderr
    assert list(tmp_path.iterdir()) == []
