"""`gradmem copy` between SQLite and a real Redis, both ways."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis.asyncio
from typer.testing import CliRunner, Result

from benchmarks.faults.redis_server import RedisServer
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import EncryptionKeyError
from service.app import create_app
from service.cli import app
from service.copying import Copied, copy_claims, copy_jobs, copy_memories, copy_store
from service.encryption import Keyring, check_keys
from service.idempotency import ClaimRecord, Idempotency
from service.jobs.jobs import Jobs
from service.keys import KeyLimits, make_key
from service.models import Models
from service.schemas import WriteRequest
from service.settings import Settings
from service.stores import MemoryFilter, Store, StoredMemory, WholeJob, create_store
from service.stores.record_format import pack
from service.stores.redis import PROVISIONAL_SECONDS
from service.stores.redis_index import KEY_PREFIX
from service.stores.redis_whole_jobs import QUEUED
from service.stores.usage import NO_QUOTA
from tests.service.conftest import Serving
from tests.service.stored import SECRET, a_memory, soon
from tests.service.test_http import DOCUMENT
from tests.service.test_job_stores import LEASE, a_job, add, finish, take
from tests.service.test_jobs import ASYNC, await_end

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
    await copy_store(source, target, final=False, with_keys=False, show_progress=print)
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
    result = run("-", urls[1], "--final")
    assert result.stdout.splitlines() == [
        "copied 1 memory; 0 there already, 0 damaged",
        "copied 0 jobs; 0 there already",
        "copied 0 idempotency keys; 0 there already",
    ]
    record = json.loads(result.stderr)
    assert (record["act"], record["memories"]) == ("store.copy", 1)


async def test_jobs_are_not_copied_while_services_may_write_them(
    stores: tuple[Store, Store], urls: Urls
) -> None:
    source, target = stores
    await add(source, a_job(1))
    await Idempotency(source, most=None).claim("acme", "k", WriteRequest(document="!a|"), size=1)
    first = await asyncio.to_thread(run, *urls)
    assert "--final" in first.stderr
    assert "job" not in first.stdout
    assert await whole_jobs(target) == {}
    assert [name async for name in target.records.scan()] == []
    await asyncio.to_thread(run, *urls, "--final")
    assert len(await whole_jobs(target)) == 1
    assert len([name async for name in target.records.scan()]) == 1


async def whole_jobs(store: Store) -> dict[str, WholeJob]:
    """Return all jobs of a store by their ids."""
    found = [await store.jobs.fetch_whole(*name) async for name in store.jobs.scan()]
    return {whole.job.job_id: whole for whole in found if whole is not None}


async def test_jobs_are_copied_with_documents_results_and_what_is_to_be_told(
    stores: tuple[Store, Store],
) -> None:
    source, target = stores
    running = await add(source, a_job(12))
    leased = [await take(source) for _ in range(3)]
    for _ in range(6):  # the leased ones have yet to be done
        await finish(source, await take(source))
    ended = await add(source, a_job(1, tenant="acme", webhook=b"sealed"))
    while (task := await take(source)).job_id != ended.job_id:
        await finish(source, task)
    await finish(source, task)
    cancelled = await add(source, a_job(2))
    await source.jobs.cancel(cancelled.tenant, cancelled.job_id, keep=timedelta(hours=1))
    before = await whole_jobs(source)
    assert await copy_jobs(source, target, print) == Copied(copied=3)
    assert await copy_jobs(source, target, print) == Copied(present=3)
    after = await whole_jobs(target)
    for job_id, whole in before.items():
        assert after[job_id].job == whole.job
        assert list(after[job_id].documents) == list(whole.documents)
        assert list(after[job_id].results) == list(whole.results)
    due = await target.jobs.take_delivery(LEASE)
    assert due is not None
    assert due.job_id == ended.job_id
    assert await target.jobs.count() == 1
    waiting = {number for number, each in enumerate(before[running.job_id].documents) if each}
    assert {task.number for task in leased} < waiting
    while (last := await target.jobs.find("default", running.job_id)) and last.ended_at is None:
        task = await take(target)
        assert task.attempts == 1
        waiting.remove(task.number)
        await finish(target, task)
    assert waiting == set()


async def test_a_second_copy_brings_jobs_forward(stores: tuple[Store, Store]) -> None:
    source, target = stores
    jobs = [await add(source, a_job(6)) for _ in range(2)]
    assert await copy_jobs(source, target, print) == Copied(copied=2)
    while (task := await source.jobs.take(LEASE)) is not None:
        if task.job_id == jobs[0].job_id or task.number < 3:
            await finish(source, task)
    assert await copy_jobs(source, target, print) == Copied(copied=2)
    assert await target.jobs.count() == 1
    for number in range(3, 6):
        task = await take(target)
        assert (task.job_id, task.number) == (jobs[1].job_id, number)
        await finish(target, task)
    assert await target.jobs.count() == 0
    assert await copy_jobs(source, target, print) == Copied(
        present=2
    )  # what is older changes nothing
    assert await target.jobs.count() == 0


async def test_a_job_that_is_copied_again_queues_nothing_twice(
    tmp_path: Path, own_redis: RedisServer
) -> None:
    async with (
        create_store(f"sqlite:///{tmp_path}/memories.db") as source,
        create_store(own_redis.url) as target,
        redis.asyncio.Redis.from_url(own_redis.url) as client,
    ):
        await add(source, a_job(12))
        for copied in range(5):
            assert await copy_jobs(source, target, print) == Copied(copied=1)
            entries: Any = await client.xrange("gradmem:{jobs}:queue")
            numbers = [int(fields[b"number"]) for _, fields in entries]
            assert numbers == list(range(copied + QUEUED))
            await finish(source, await take(source))
        taken = set()
        while (task := await target.jobs.take(LEASE)) is not None:
            taken.add(task.number)
            await finish(target, task)
    assert taken == set(range(4, 12))


async def test_encrypted_documents_are_written_from_the_copy(stores: tuple[Store, Store]) -> None:
    source, target = (
        Jobs(store, Keyring([KEY]), most=1, most_ended=1, keep=timedelta(hours=1))
        for store in stores
    )
    document = WriteRequest(document="!a|")
    await source.submit("acme", [document], NO_QUOTA)
    await copy_jobs(*stores, print)
    task = await target.take()
    assert task is not None
    assert b"!a|" not in task.document
    assert (await target.open(task)).request == document


def test_nothing_that_a_service_accepted_is_lost_by_moving(
    urls: Urls, tiny: Checkpoint, serving: Serving
) -> None:
    @contextmanager
    def service(store_url: str, documents: int) -> Iterator[httpx.Client]:
        settings = Settings(store_url=store_url, threads=1, job_documents=documents)
        with (
            serving(create_app(settings, models=Models([tiny]))) as url,
            httpx.Client(base_url=url, timeout=60) as client,
        ):
            yield client

    item = {"document": DOCUMENT, "steps": 1}
    keys = [{"Idempotency-Key": "written"}, {"Idempotency-Key": "accepted"} | ASYNC]
    with service(urls[0], 0) as http:
        written, accepted = [http.post("/write", json=item, headers=key).json() for key in keys]
    assert run(*urls, "--final").exit_code == 0
    with service(urls[1], 1) as http:
        again, job = [http.post("/write", json=item, headers=key).json() for key in keys]
        assert again == written
        assert job["job_id"] == accepted["job_id"]
        await_end(http, job)
        (result,) = http.get(f"/jobs/{job['job_id']}/results").json()["results"]
        memories = {memory["memory_id"] for memory in http.get("/memories").json()["memories"]}
    assert memories == {written["memory_id"], result["memory"]["memory_id"]}


async def test_requests_that_are_sent_again_find_their_keys(stores: tuple[Store, Store]) -> None:
    source, target = (Idempotency(store, most=1) for store in stores)
    document = WriteRequest(document="!a|")

    async def do_nothing() -> None: ...

    claim = await source.claim("acme", "a key", document, size=1)
    assert await copy_claims(*stores, print) == Copied(copied=1)
    await claim.run(do_nothing, lambda _: "a note")
    assert await copy_claims(*stores, print) == Copied(copied=1)
    assert await copy_claims(*stores, print) == Copied(present=1)
    again = await target.claim("acme", "a key", document, size=1)
    assert (again.seed, again.result, again.is_new) == (claim.seed, "a note", False)


async def test_a_key_that_was_freed_and_claimed_again_has_its_new_seed(
    stores: tuple[Store, Store],
) -> None:
    source = Idempotency(stores[0], most=None)
    document = WriteRequest(document="!a|")
    claim = await source.claim("acme", "a key", document, size=1)
    await copy_claims(*stores, print)
    await claim.forget()
    again = await source.claim("acme", "a key", document, size=1)
    assert await copy_claims(*stores, print) == Copied(copied=1)
    assert await copy_claims(*stores, print) == Copied(present=1)
    [name] = [name async for name in stores[1].records.scan()]
    record = ClaimRecord.model_validate_json(await stores[1].records.find(name) or b"")
    assert record.seed == again.seed != claim.seed


async def test_a_copied_key_expires_when_the_other_does(stores: tuple[Store, Store]) -> None:
    source, target = stores
    document = WriteRequest(document="!a|")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.idempotency.KEPT", timedelta(seconds=0.5))
        claim = await Idempotency(source, most=1).claim("acme", "a key", document, size=1)
        await copy_claims(source, target, print)
    await asyncio.sleep(0.6)
    fresh = await Idempotency(target, most=1).claim("acme", "a key", document, size=1)
    assert fresh.is_new
    assert fresh.seed != claim.seed


def test_a_store_is_not_copied_into_itself_nor_out_of_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/memories.db"
    same, missing = run(url, url), run(url, f"sqlite:///{tmp_path}/other.db")
    assert (same.exit_code, missing.exit_code) == (2, 2)
    assert "same store" in same.stderr
    assert "does not exist" in missing.stderr
    assert list(tmp_path.iterdir()) == []
