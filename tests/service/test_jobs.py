"""Jobs over HTTP."""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import DeviceLostError, StoreFullError
from service.app import create_app
from service.encryption import Keyring
from service.idempotency import Idempotency
from service.jobs import worker
from service.jobs.jobs import Jobs, describe_job
from service.jobs.schemas import BatchRequest, FailedDocument
from service.leases import LEASE_SECONDS
from service.models import Models
from service.refusals import JobNotFoundError
from service.schemas import Problem, WriteRequest
from service.settings import Settings
from service.stores import NO_QUOTA, create_store
from service.stores.sqlite import SqliteStore
from tests.service.conftest import Serving
from tests.service.test_http import DOCUMENT, UNKNOWN_ID, problem
from tests.service.test_idempotency import REPLAYED
from tests.service.test_keys import store_keys
from tests.service.test_shutdown import Ending
from tests.service.test_streams import EVENTS, slow_service

ITEM = {"document": DOCUMENT, "steps": 1}
ASYNC = {"Prefer": "respond-async"}
FORMS = ["sqlite", "redis"]


@pytest.fixture(params=FORMS)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    url = f"sqlite:///{tmp_path}/memories.db"
    if request.param == "redis":
        url = request.getfixturevalue("own_redis").url
    return Settings(store_url=url, threads=1)


@pytest.fixture
def http(settings: Settings, tiny: Checkpoint, serving: Serving) -> Iterator[httpx.Client]:
    with (
        serving(create_app(settings, models=Models([tiny]))) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield client


def submit(http: httpx.Client, *documents: object, **headers: str) -> dict[str, Any]:
    response = http.post("/write/batch", json={"documents": documents}, headers=ASYNC | headers)
    assert response.status_code == 202, response.text
    assert response.headers["preference-applied"] == "respond-async"
    job: dict[str, Any] = response.json()
    assert response.headers["location"] == f"/jobs/{job['job_id']}"
    return job


def await_end(http: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while (shown := http.get(f"/jobs/{job['job_id']}").json())["ended_at"] is None:
        assert time.monotonic() < deadline, shown
        time.sleep(0.05)
    found: dict[str, Any] = shown
    return found


def results_of(http: httpx.Client, job: dict[str, Any]) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = http.get(f"/jobs/{job['job_id']}/results").json()["results"]
    return results


def test_documents_are_written_after_the_response(http: httpx.Client) -> None:
    documents = [ITEM | {"name": str(number)} for number in range(7)]
    documents[3] = {"document": "€"}
    job = submit(http, *documents)
    assert (job["documents"], job["written"], job["failed"]) == (7, 0, 0)
    ended = await_end(http, job)
    assert (ended["status"], ended["written"], ended["failed"]) == ("done", 6, 1)
    assert ended["expires_at"] > ended["ended_at"] >= ended["created_at"]
    results = results_of(http, job)
    assert results[3]["problem"]["type"] == "urn:gradmem:problem:unknown-characters"
    for number in (0, 6):
        memory = results[number]["memory"]
        assert memory["name"] == str(number)
        shown = http.get(f"/memories/{memory['memory_id']}").json()
        assert shown == {key: memory[key] for key in shown}
    metrics = http.get("/metrics").text
    assert 'gradmem_job_documents_total{outcome="written"} 6.0' in metrics
    assert 'gradmem_job_documents_total{outcome="failed"} 1.0' in metrics


def test_a_single_document_may_be_a_job(http: httpx.Client) -> None:
    response = http.post("/write", json=ITEM, headers={"Prefer": "wait=1, respond-async"})
    assert response.status_code == 202
    ended = await_end(http, response.json())
    assert (ended["documents"], ended["written"]) == (1, 1)


def test_a_repeated_request_has_the_same_job(http: httpx.Client) -> None:
    key = {"Idempotency-Key": os.urandom(8).hex()}
    job = submit(http, ITEM, ITEM, **key)
    response = http.post("/write/batch", json={"documents": [ITEM, ITEM]}, headers=ASYNC | key)
    assert response.status_code == 202
    assert response.headers[REPLAYED] == "true"
    assert response.json()["job_id"] == job["job_id"]
    waiting = http.post("/write/batch", json={"documents": [ITEM, ITEM]}, headers=key)
    assert waiting.status_code == 202
    await_end(http, job)
    assert len(http.get("/memories").json()["memories"]) == 2


def test_a_batch_sent_again_as_a_job_writes_no_memory_twice(http: httpx.Client) -> None:
    key, documents = {"Idempotency-Key": os.urandom(8).hex()}, [ITEM, ITEM | {"timeout": 1e-9}]
    batch = http.post("/write/batch", json={"documents": documents}, headers=key)
    written, failed = batch.json()["results"]
    assert failed["problem"]["status"] == 504
    job = submit(http, *documents, **key)
    await_end(http, job)
    assert results_of(http, job)[0] == written
    assert len(http.get("/memories").json()["memories"]) == 1


def test_a_repeated_job_is_described_as_it_is(settings: Settings) -> None:
    async def submit_twice() -> None:
        body = BatchRequest.model_validate({"documents": [ITEM]})
        async with create_store(settings.store_url) as store:
            claim = await Idempotency(store, most=1).claim("default", "key", body, size=1)
            jobs = Jobs(store, Keyring([]), most=1, most_ended=1, keep=timedelta(hours=1))
            first = await jobs.submit("default", body.documents, NO_QUOTA, claim=claim)
            await jobs.take()
            again = await jobs.submit("default", body.documents, NO_QUOTA, claim=claim)
            stored = await store.jobs.find("default", first.job_id)
        assert stored is not None
        assert again == describe_job(stored)
        assert (again.created_at, again.status) == (first.created_at, "running")

    asyncio.run(submit_twice())


def test_jobs_are_listed(http: httpx.Client) -> None:
    jobs = [submit(http, ITEM)["job_id"] for _ in range(3)]
    first = http.get("/jobs", params={"limit": 2}).json()
    assert [job["job_id"] for job in first["jobs"]] == jobs[:0:-1]
    rest = http.get("/jobs", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [job["job_id"] for job in rest["jobs"]] == jobs[:1]
    assert rest["next_cursor"] is None
    problem(http.get("/jobs", params={"cursor": "x"}), 422, "invalid-input")


def test_an_ended_job_is_deleted(http: httpx.Client) -> None:
    job = submit(http, ITEM)
    await_end(http, job)
    path = f"/jobs/{job['job_id']}"
    assert http.delete(path).status_code == 204
    for response in (http.get(path), http.get(f"{path}/results"), http.delete(path)):
        problem(response, 404, "job-not-found")


@pytest.mark.parametrize("job_id", [UNKNOWN_ID, "x", "a:b"])
def test_a_missing_job_is_not_found(http: httpx.Client, job_id: str) -> None:
    problem(http.get(f"/jobs/{job_id}"), 404, "job-not-found")
    problem(http.delete(f"/jobs/{job_id}"), 404, "job-not-found")


def test_a_job_of_another_tenant_is_not_found(
    settings: Settings, tiny: Checkpoint, serving: Serving
) -> None:
    keys = asyncio.run(store_keys(settings.store_url))
    one, two = (
        {"Authorization": f"Bearer {keys[tenant, 'admin']}"} for tenant in ("acme", "rival")
    )
    with (
        serving(create_app(settings, models=Models([tiny]))) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        job_id = client.post("/write", json=ITEM, headers=ASYNC | one).json()["job_id"]
        for path in (f"/jobs/{job_id}", f"/jobs/{job_id}/results"):
            foreign, missing = (
                client.get(each, headers=two | {"X-Request-Id": "same"})
                for each in (path, path.replace(job_id, UNKNOWN_ID))
            )
            assert foreign.status_code == missing.status_code == 404
            assert foreign.content == missing.content
        assert client.delete(f"/jobs/{job_id}", headers=two).status_code == 404
        assert client.get("/jobs", headers=two).json()["jobs"] == []
        assert client.get(f"/jobs/{job_id}", headers=one).status_code == 200


def test_a_job_is_cancelled_between_documents(
    settings: Settings, tiny: Checkpoint, serving: Serving
) -> None:
    settings = settings.model_copy(update={"job_documents": 1})
    with slow_service(settings, tiny, serving) as (device, client, _):
        job = submit(client, *[ITEM] * 5)
        path = f"/jobs/{job['job_id']}"
        while client.get(path).json()["status"] != "running":
            time.sleep(0.02)
        assert client.delete(path).status_code == 204
        cancelled = client.get(path).json()
        assert cancelled["status"] == "cancelled"
        device.permits.release(100)
        deadline = time.monotonic() + 20
        while client.get(path).json()["written"] == 0:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        results = results_of(client, job)
    assert "memory" in results[0]
    assert results[1:] == [None] * 4


def test_a_job_that_ends_while_it_is_cancelled_keeps_its_results(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cancel_at_the_end() -> None:
        documents = [WriteRequest(document="!a|")]
        async with create_store(settings.store_url) as store:
            jobs = Jobs(store, Keyring([]), most=1, most_ended=1, keep=timedelta(hours=1))
            job_id = (await jobs.submit("default", documents, NO_QUOTA)).job_id
            cancel = store.jobs.cancel

            async def finish_first(tenant: str, job_id: str, *, keep: timedelta) -> bool:
                task = await jobs.take()
                assert task is not None
                late = Problem(type="deadline", title="Too late", status=504, detail="")
                await jobs.finish(task, FailedDocument(problem=late))
                return await cancel(tenant, job_id, keep=keep)

            monkeypatch.setattr(store.jobs, "cancel", finish_first)
            await jobs.cancel("default", job_id)
            assert (await jobs.show("default", job_id)).status == "done"
            assert (await jobs.results("default", job_id)).results[0] is not None
            await jobs.cancel("default", job_id)
            with pytest.raises(JobNotFoundError):
                await jobs.show("default", job_id)

    asyncio.run(cancel_at_the_end())


def test_a_tenant_has_a_limit_of_jobs(
    settings: Settings, tiny: Checkpoint, serving: Serving
) -> None:
    settings = settings.model_copy(update={"job_documents": 0, "max_jobs": 2})
    with (
        serving(create_app(settings, models=Models([tiny]))) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        for _ in range(2):
            submit(client, ITEM)
        refused = client.post("/write", json=ITEM, headers=ASYNC)
        assert problem(refused, 429, "too-many-jobs")["limit"] == 2
        assert "retry-after" in refused.headers


def test_a_stopped_service_leaves_its_documents_to_the_next(
    settings: Settings, tiny: Checkpoint, serving: Serving
) -> None:
    ending = Ending(settings.model_copy(update={"port": 0, "shutdown_seconds": 0.0}))
    with slow_service(ending.settings, tiny, ending) as (_, client, _):
        job = submit(client, *[ITEM] * 3)
        while client.get(f"/jobs/{job['job_id']}").json()["status"] != "running":
            time.sleep(0.02)
        ending.end()
        time.sleep(0.5)  # until the worker has stopped: then the device may go on
    began = time.monotonic()
    with (
        serving(create_app(settings, models=Models([tiny]))) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        assert await_end(client, job)["written"] == 3
        assert len(client.get("/memories").json()["memories"]) == 3
    assert time.monotonic() - began < LEASE_SECONDS  # no lease had to run out


def test_documents_are_encrypted_and_then_forgotten(
    tmp_path: Path, tiny: Checkpoint, serving: Serving
) -> None:
    settings = Settings(
        store_url=f"sqlite:///{tmp_path}/memories.db",
        encryption_keys=["ab" * 32],
        job_documents=0,
        threads=1,
    )
    with (
        serving(create_app(settings, models=Models([tiny]))) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        submit(client, ITEM | {"name": "a name"})
        everything = b"".join(path.read_bytes() for path in tmp_path.glob("memories.db*"))
        assert DOCUMENT.encode() not in everything
        assert b"a name" not in everything
    settings = settings.model_copy(update={"job_documents": 1})
    with (
        serving(create_app(settings, models=Models([tiny]))) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        (job,) = client.get("/jobs").json()["jobs"]
        await_end(client, job)
        assert results_of(client, job)[0]["memory"]["name"] == "a name"
    with sqlite3.connect(tmp_path / "memories.db") as connection:
        assert connection.execute("SELECT document FROM job_documents").fetchall() == [(None,)]
    connection.close()


def test_a_document_that_is_not_admitted_in_its_time_is_given_up(
    settings: Settings, tiny: Checkpoint, serving: Serving
) -> None:
    body = ITEM | {"steps": 2}
    with slow_service(settings, tiny, serving) as (device, client, _):
        device.permits.release(5)
        client.post("/write", json=ITEM | {"steps": 4})  # now the service knows its pace
        with client.stream("POST", "/write", json=body, headers=EVENTS) as response:
            lines = response.iter_lines()
            assert next(lines) == "event: step"
            job = submit(client, ITEM | {"timeout": 1e-6})
            assert await_end(client, job)["failed"] == 1
            (result,) = results_of(client, job)
            assert result["problem"]["status"] == 504
            assert "no room" in result["problem"]["detail"]


def await_true(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def in_file(settings: Settings, query: str) -> tuple[Any, ...]:
    """Return a row of the SQLite file of a service."""
    with sqlite3.connect(settings.store_url.removeprefix("sqlite:///")) as connection:
        row: tuple[Any, ...] = connection.execute(query).fetchone()
    connection.close()
    return row


ATTEMPTS = "SELECT attempts, document IS NOT NULL, leased_until > 0 FROM job_documents"


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
def test_a_document_with_which_the_device_is_lost_has_had_an_attempt(
    settings: Settings, tiny: Checkpoint, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(settings, models=Models([tiny]))

    async def lose(*_: object, **__: object) -> None:
        raise DeviceLostError("the device was lost")

    monkeypatch.setattr(app.state.gradmem.writer, "write", lose)
    with serving(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        submit(client, ITEM)
        await_true(lambda: in_file(settings, ATTEMPTS)[0] == 1)
        time.sleep(0.2)
    assert in_file(settings, ATTEMPTS) == (1, True, True)


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
def test_a_document_whose_key_is_missing_is_left_to_others(
    settings: Settings, tiny: Checkpoint, serving: Serving
) -> None:
    for changes in (
        {"encryption_keys": ["ab" * 32], "job_documents": 0},
        {"encryption_keys": ["cd" * 32]},
    ):
        app = create_app(settings.model_copy(update=changes), models=Models([tiny]))
        with serving(app) as url, httpx.Client(base_url=url, timeout=60) as client:
            if "job_documents" in changes:
                submit(client, ITEM)
                continue
            await_true(lambda: in_file(settings, ATTEMPTS)[0] == 1)
            time.sleep(0.2)
    assert in_file(settings, ATTEMPTS) == (1, True, True)


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
def test_a_full_store_is_tried_less_and_less(
    settings: Settings, tiny: Checkpoint, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = 0

    async def refuse(*_: object) -> bool:
        nonlocal attempts
        attempts += 1
        raise StoreFullError("the disk is full")

    monkeypatch.setattr(worker, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(SqliteStore, "put_once", refuse)
    with (
        serving(create_app(settings, models=Models([tiny]))) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        job = submit(client, ITEM)
        await_true(lambda: attempts > 0)
        time.sleep(1.5)
        assert attempts <= 8
        monkeypatch.undo()
        assert await_end(client, job)["written"] == 1
