"""Requests that are sent again with their idempotency key."""

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import InputError, StoreUnavailableError
from service import idempotency, leases
from service.app import create_app
from service.client.retries import LONGEST_PAUSE_SECONDS
from service.models import Models
from service.refusals import TooManyKeysError
from service.schemas import WriteRequest
from service.settings import Settings
from service.stores import MemoryFilter, Store, StoredMemory, create_store
from service.stores.redis_index import KEY_PREFIX
from tests.service.conftest import MAX_PAGES, Serving
from tests.service.stored import a_memory, soon
from tests.service.test_http import DOCUMENT, problem
from tests.service.test_streams import EVENTS, events_of, slow_service

LIST = "aa: 1\nbb: 2"
REPLAYED = "idempotency-replayed"
MOST = 1000
"Most keys of a tenant."


@pytest.fixture(params=["sqlite", "redis"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/memories.db"
    return str(request.getfixturevalue("redis_server"))


@pytest.fixture
def http(
    store_url: str, lists: Checkpoint, tiny: Checkpoint, serving: Serving
) -> Iterator[httpx.Client]:
    settings = Settings(store_url=store_url, threads=1, max_pages=MAX_PAGES)
    with (
        serving(create_app(settings, models=Models([tiny, lists]))) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield client


def send(
    http: httpx.Client, key: str, headers: dict[str, str] | None = None, **fields: object
) -> httpx.Response:
    return http.post(
        "/write",
        json={"document": DOCUMENT, **fields},
        headers={"Idempotency-Key": key, **(headers or {})},
    )


def new_key() -> str:
    return os.urandom(8).hex()


def test_the_same_request_gives_the_same_memory(http: httpx.Client) -> None:
    key = new_key()
    first, again = send(http, key, metadata={"a": "b"}), send(http, key, metadata={"a": "b"})
    assert first.status_code == again.status_code == 201
    assert first.json() == again.json()
    assert REPLAYED not in first.headers
    assert again.headers[REPLAYED] == "true"
    another = send(http, new_key(), metadata={"a": "b"})
    assert another.json()["memory_id"] != first.json()["memory_id"]


def test_another_body_is_refused(http: httpx.Client) -> None:
    key = new_key()
    assert send(http, key).status_code == 201
    problem(send(http, key, steps=1), 422, "idempotency-key-reused")


@pytest.mark.parametrize("key", [b"", b"a b", b"x" * 256, "é".encode("latin-1")])
def test_a_key_of_another_form_is_refused(http: httpx.Client, key: bytes) -> None:
    response = http.post("/write", json={"document": DOCUMENT}, headers={b"Idempotency-Key": key})
    problem(response, 422, "invalid-request")


def test_remarks_on_the_document_are_repeated(http: httpx.Client) -> None:
    key, document = new_key(), "aa: 1\n???\naa: 2"
    first = send(http, key, document=document, model="lists").json()
    assert first["duplicate_keys"] == ["aa"]
    assert first["skipped_lines"] == [2]
    assert send(http, key, document=document, model="lists").json() == first


def test_a_stream_is_repeated_by_its_result(http: httpx.Client) -> None:
    key = new_key()
    events = events_of(send(http, key, EVENTS).text)
    assert [name for name, _ in events] == ["step", "step", "result"]
    again = send(http, key, EVENTS)
    assert events_of(again.text) == events[-1:]
    assert again.headers[REPLAYED] == "true"


def test_pages_are_added_once(http: httpx.Client) -> None:
    memory = http.post("/write", json={"document": LIST, "model": "lists"}).json()["memory_id"]
    key, fields = new_key(), {"document": "cc: 3", "append_to": memory}
    first = send(http, key, **fields)
    assert len(first.json()["pages"]) == 2
    assert send(http, key, **fields).json() == first.json()
    http.delete(f"/memories/{memory}/pages/{first.json()['pages'][1]['page_id']}")
    problem(send(http, key, **fields), 404, "page-not-found")


def test_a_deleted_memory_is_not_written_again(http: httpx.Client) -> None:
    key = new_key()
    memory = send(http, key).json()["memory_id"]
    http.delete(f"/memories/{memory}")
    problem(send(http, key), 404, "memory-not-found")


def test_a_refused_request_frees_its_key(http: httpx.Client) -> None:
    key = new_key()
    problem(send(http, key, model="none"), 404, "model-not-found")
    assert send(http, key).status_code == 201


def test_tenants_have_their_own_keys(settings: Settings) -> None:
    async def ids() -> set[str]:
        async with create_store(settings.store_url) as store:
            keys, body = idempotency.Idempotency(store, most=MOST), WriteRequest(document=DOCUMENT)
            claims = [await keys.claim(each, "key", body, size=1) for each in ("one", "two")]
            return {claim.derive_id("0") for claim in claims}

    assert len(asyncio.run(ids())) == 2


def test_a_request_in_flight_is_not_begun_again(
    settings: Settings, tiny: Checkpoint, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 3.0)
    with (
        slow_service(settings, tiny, serving) as (device, client, _),
        ThreadPoolExecutor() as pool,
    ):
        sent = [pool.submit(send, client, "a") for _ in range(2)]
        refused, written = wait(sent, return_when=FIRST_COMPLETED)
        for request in refused:
            problem(request.result(), 409, "write-in-flight")
        time.sleep(3.2)  # the lease is renewed
        assert "retry-after" in problem_headers(send(client, "a"))
        device.permits.release(10)
        memories = [request.result(30).json() for request in written]
        assert [send(client, "a").json()] == memories


def problem_headers(response: httpx.Response) -> httpx.Headers:
    problem(response, 409, "write-in-flight")
    return response.headers


def test_a_request_whose_process_died_goes_on(
    http: httpx.Client, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1.0)
    before_writing, before_noting = new_key(), new_key()
    ids = [begin_and_die(store_url, key) for key in (before_writing, before_noting)]
    memory = http.post("/write", json={"document": DOCUMENT}).json()["memory_id"]
    blob = http.get(f"/memories/{memory}/blob").content
    assert http.put(f"/memories/{ids[1]}/blob", content=blob).status_code == 201
    time.sleep(1)
    for key, memory_id in zip((before_writing, before_noting), ids, strict=True):
        assert send(http, key).json()["memory_id"] == memory_id
        assert send(http, key).headers[REPLAYED] == "true"
    assert http.get(f"/memories/{ids[1]}/blob").content == blob


@pytest.mark.anyio
async def test_a_lost_reply_loses_no_lease(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with create_store(store_url) as store:
        key = new_key()
        claim = await claim_again(store, key)
        exchange = store.records.exchange

        async def lose_the_reply(*arguments: Any) -> bool:
            await exchange(*arguments)
            raise StoreUnavailableError("the reply is lost")

        monkeypatch.setattr(store.records, "exchange", lose_the_reply)
        for _ in range(2):
            with pytest.raises(StoreUnavailableError):
                await claim.renew()
        monkeypatch.undo()
        assert await claim.renew()
        await claim.run(do_nothing, lambda _: "done")
        assert (await claim_again(store, key)).result == "done"


@pytest.mark.anyio
async def test_a_lease_is_lost_to_another_service(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.1)
    async with create_store(store_url) as store:
        key = new_key()
        first = await claim_again(store, key)
        await asyncio.sleep(0.1)
        second = await claim_again(store, key)
        assert not await first.renew()
        assert await second.renew()


@pytest.mark.anyio
async def test_a_refusal_after_another_attempt_keeps_the_ids(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.1)

    async def refuse() -> None:
        raise InputError("refused")

    async with create_store(store_url) as store:
        key = new_key()
        first = await claim_again(store, key)  # whose process may have stored a memory
        await asyncio.sleep(0.1)
        second = await claim_again(store, key)
        with pytest.raises(InputError):
            await second.run(refuse)
        third = await claim_again(store, key)
        assert first.derive_id("0") == third.derive_id("0")


async def claim_again(store: Store, key: str) -> idempotency.Claim:
    body = WriteRequest(document=DOCUMENT)
    return await idempotency.Idempotency(store, most=MOST).claim("default", key, body, size=1)


async def do_nothing() -> None:
    pass


def test_a_tenant_has_as_many_keys_as_it_may(
    tmp_path: Path, tiny: Checkpoint, serving: Serving
) -> None:
    store_url = f"sqlite:///{tmp_path}/memories.db"
    settings = Settings(store_url=store_url, threads=1, max_idempotency_keys=2)
    with (
        serving(create_app(settings, models=Models([tiny]))) as url,
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        assert http.get("/limits").json()["idempotency_keys"] == 2
        keys = [new_key(), new_key()]
        memories = [send(http, key).json() for key in keys]
        for key in (new_key(), new_key()):
            refused = send(http, key)
            assert problem(refused, 429, "too-many-idempotency-keys")["limit"] == 2
            retry_after = int(refused.headers["retry-after"])
            assert retry_after == idempotency.KEPT.total_seconds()
            assert retry_after > LONGEST_PAUSE_SECONDS  # the client does not wait in vain
        assert [send(http, key).json() for key in keys] == memories
        assert http.post("/write", json={"document": DOCUMENT}).status_code == 201


@pytest.mark.anyio
async def test_requests_at_once_do_not_exceed_the_limit_of_keys(store_url: str) -> None:
    body, tenant = WriteRequest(document=DOCUMENT), f"t{new_key()}"
    async with create_store(store_url) as one, create_store(store_url) as two:
        services = [idempotency.Idempotency(store, most=5) for store in (one, two)]

        async def send_one(number: int, key: str) -> bool:
            try:
                claim = await services[number % 2].claim(tenant, key, body, size=1)
            except TooManyKeysError:
                return False
            await claim.run(do_nothing)
            return True

        first, *others = (new_key() for _ in range(20))
        assert await send_one(0, first)
        sent = await asyncio.gather(*(send_one(*each) for each in enumerate(others)))
        assert sum(sent) <= 4
        while await one.records.count(f"idempotency:{tenant}:") < 5:
            await send_one(0, new_key())
        assert not await send_one(0, new_key())
        assert (await services[1].claim(tenant, first, body, size=1)).result == ""


@pytest.mark.anyio
@pytest.mark.parametrize("error", [StoreUnavailableError("no reply"), asyncio.CancelledError()])
async def test_a_key_is_free_again_where_its_claim_failed(
    store_url: str, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    key = new_key()
    async with create_store(store_url) as store:
        for step in ("create", "count"):
            method = getattr(store.records, step)

            async def do_and_fail(*arguments: Any, method: Any = method) -> None:
                await method(*arguments)
                raise error

            monkeypatch.setattr(store.records, step, do_and_fail)
            with pytest.raises(type(error)):
                await claim_again(store, key)
            monkeypatch.undo()
        assert (await claim_again(store, key)).is_new


def begin_and_die(store_url: str, key: str) -> str:
    """Claim a request as a service does that ends then; return the id that it chose."""

    async def begin() -> str:
        async with create_store(store_url) as store:
            return (await claim_again(store, key)).derive_id("0")

    return asyncio.run(begin())


# Stores


@pytest.mark.anyio
async def test_records_are_exchanged_where_they_have_not_changed(store_url: str) -> None:
    async with create_store(store_url) as store:
        records, key = store.records, new_key()
        assert await records.find(key) is None
        assert await records.create(key, b"a", soon(60))
        assert not await records.create(key, b"b", soon(60))
        assert await records.exchange(key, b"a", b"b", soon(60))
        assert not await records.exchange(key, b"a", b"c", soon(60))
        assert await records.find(key) == b"b"
        assert not await records.remove(key, b"a")
        assert await records.remove(key, b"b")
        assert not await records.exchange(key, b"b", b"c", soon(60))
        assert await records.create(key, b"a", soon(0.2))
        await asyncio.sleep(0.25)
        assert await records.find(key) is None
        assert not await records.exchange(key, b"a", b"b", soon(60))
        assert await records.create(key, b"b", soon(60))


@pytest.mark.anyio
async def test_records_are_counted_by_group(store_url: str) -> None:
    group = f"{new_key()}:a:"
    async with create_store(store_url) as store:
        records = store.records
        for name in ("first", "second", "first"):
            await records.create(group + name, b"a", soon(60))
        await records.create(group + "third", b"a", soon(0.2))
        await records.create(group[:-2] + "b:first", b"a", soon(60))
        assert await records.count(group) == 3
        assert await records.remove(group + "first", b"a")
        assert await records.exchange(group + "second", b"a", b"b", soon(60))
        await asyncio.sleep(0.25)
        await store.sweep()
        await records.create(group + "third", b"a", soon(60))  # in place of the expired one
        assert await records.count(group) == 2
        assert await records.count(group[:-2]) == 0


@pytest.mark.anyio
async def test_records_of_an_older_file_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "memories.db"
    async with create_store(f"sqlite:///{path}") as store:
        for name in ("first", "second"):
            await store.records.create(f"a:b:{name}", b"a", soon(60))
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("DROP TABLE record_groups; PRAGMA user_version = 2")
    async with create_store(f"sqlite:///{path}") as store:
        assert await store.records.count("a:b:") == 2


@pytest.mark.anyio
async def test_put_once_stores_once(store_url: str) -> None:
    memory = a_memory(b"first")
    later = a_memory(b"second", memory_id=memory.memory_id)
    async with create_store(store_url) as store:
        assert await store.put_once(memory)
        assert not await store.put_once(later)
        assert await store.get(memory.tenant, memory.memory_id) == memory


@pytest.mark.anyio
async def test_what_an_interrupted_put_once_left_is_completed(
    redis_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = a_memory(metadata={"put": new_key()})
    async with create_store(redis_server) as store:

        async def fail(*_: object) -> None:
            raise StoreUnavailableError("the reply is lost")

        monkeypatch.setattr(store, "_confirm", fail)
        with pytest.raises(StoreUnavailableError):
            await store.put_once(memory)
        monkeypatch.undo()
        assert not await is_listed(store, memory)
        assert await store.complete_put(memory.tenant, memory.memory_id) == memory
        assert await is_listed(store, memory)
        async with Redis.from_url(redis_server) as client:
            assert await client.ttl(KEY_PREFIX + memory.key) == -1


async def is_listed(store: Store, memory: StoredMemory) -> bool:
    wanted = MemoryFilter(metadata=memory.metadata)
    found = await store.list_memories(memory.tenant, wanted, limit=10)
    return bool(found.memories)


@pytest.mark.anyio
async def test_records_hold_no_text(store_url: str) -> None:
    async with create_store(store_url) as store:
        keys = idempotency.Idempotency(store, most=MOST)
        body = WriteRequest(document="a secret")
        claim = await keys.claim("default", "mykey", body, size=1)
        record: Any = await store.records.find(claim._name)
    assert b"secret" not in record
    assert "mykey" not in claim._name
    assert json.loads(record)["result"] is None
