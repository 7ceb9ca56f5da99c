"""Quotas of tenants over HTTP."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from gradmem_core.checkpoints.checkpoint import Checkpoint
from service import access
from service.app import create_app
from service.cli import app as command
from service.keys import KeyLimits, make_key
from service.models import Models
from service.settings import Settings
from service.stores import create_store, new_memory_id
from tests.service.conftest import Serving
from tests.service.test_http import problem
from tests.service.test_records_http import records

DOCUMENT = {"document": "a: 1", "verify": False}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        store_url=f"sqlite:///{tmp_path}/memories.db", threads=1, max_memories=3, max_pages=5
    )


@pytest.fixture
def url(
    settings: Settings, lists: Checkpoint, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    monkeypatch.setattr(access, "CACHE_SECONDS", 0)  # the first key is known at once
    with serving(create_app(settings, models=Models([lists]))) as base:
        yield base


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


def make_client(settings: Settings, url: str, tenant: str, **limits: int) -> httpx.Client:
    """Return a client with a new key."""

    async def save() -> str:
        key, record = make_key(tenant, "write", KeyLimits(**limits))
        async with create_store(settings.store_url) as store:
            await store.save_key(record.key_id, record.model_dump_json())
        return key

    headers = {"Authorization": f"Bearer {asyncio.run(save())}"}
    return httpx.Client(base_url=url, headers=headers, timeout=30)


def write(http: httpx.Client, **fields: object) -> dict[str, Any]:
    response = http.post("/write", json={**DOCUMENT, **fields})
    assert response.status_code == 201, response.text
    result: dict[str, Any] = response.json()
    return result


def used(http: httpx.Client) -> tuple[int, int]:
    limits = http.get("/limits").json()
    return limits["memories_used"], limits["bytes_used"]


def steps_made(http: httpx.Client) -> int:
    text = http.get("/metrics").text
    return int(float(text.partition('gradmem_step_seconds_count{kind="write"}')[2].split()[0]))


def test_a_tenant_has_as_many_memories_as_it_may(http: httpx.Client) -> None:
    memories = [write(http) for _ in range(3)]
    count, size = used(http)
    assert count == http.get("/limits").json()["memories"] == 3
    assert size > sum(memory["bytes"] for memory in memories)
    steps = steps_made(http)
    refused = problem(http.post("/write", json=DOCUMENT), 403, "quota")
    assert refused["limit"] == 3
    assert "has 3 memories and may have 3" in refused["detail"]
    assert steps_made(http) == steps
    blob = http.get(f"/memories/{memories[0]['memory_id']}/blob").content
    problem(http.put(f"/memories/{new_memory_id()}/blob", content=blob), 403, "quota")
    again = http.put(f"/memories/{memories[0]['memory_id']}/blob", content=blob)
    assert again.status_code == 200
    batch = http.post("/write/batch", json={"documents": [DOCUMENT]})
    assert batch.json()["results"][0]["problem"]["type"] == "urn:gradmem:problem:quota"
    write(http, append_to=memories[1]["memory_id"])
    http.delete(f"/memories/{memories[0]['memory_id']}")
    write(http)
    assert used(http)[0] == 3


def test_a_key_has_limits_of_its_own(settings: Settings, url: str) -> None:
    with make_client(settings, url, "acme", max_memories=5, max_bytes=10_000) as http:
        for _ in range(4):
            write(http)
        limits = http.get("/limits").json()
        assert (limits["memories"], limits["bytes"]) == (5, 10_000)
    with make_client(settings, url, "acme") as http:  # another key of the tenant
        problem(http.post("/write", json=DOCUMENT), 403, "quota")
    with make_client(settings, url, "rival") as http:
        assert used(http) == (0, 0)
        write(http)


def test_a_tenant_has_as_many_bytes_as_it_may(settings: Settings, url: str) -> None:
    with make_client(settings, url, "acme") as http:
        memory = write(http)
        _, size = used(http)
    path = f"/memories/{memory['memory_id']}"
    page = f"{path}/pages/{memory['pages'][0]['page_id']}"
    with make_client(settings, url, "acme", max_bytes=size + 100) as http:
        before = http.get(path).json()
        long = {"document": records(8), "verify": False}
        for refused in (
            http.post("/write", json=DOCUMENT),
            http.post("/write", json={**DOCUMENT, "append_to": memory["memory_id"]}),
            http.put(page, json=long),
            http.patch(path, json={"metadata": {"k": "v" * 200}}),
        ):
            assert problem(refused, 403, "quota")["limit"] == size + 100
        assert http.get(path).json() == before
        assert http.patch(path, json={"name": "short"}).status_code == 200
        assert http.put(page, json={"document": "b: 2"}).status_code == 200
    with make_client(settings, url, "acme", max_bytes=1) as http:  # lowered meanwhile
        assert http.patch(path, json={"name": None}).status_code == 200
        assert http.delete(path).status_code == 204
        assert used(http) == (0, 0)


def test_every_setting_that_limits_clients_is_shown(
    settings: Settings, lists: Checkpoint, serving: Serving
) -> None:
    of_the_device = {"max_batch_tokens", "max_batch_queries", "max_prefix_bytes"}
    names = {name for name in Settings.model_fields if name.startswith("max_")} - of_the_device
    others = {"job_seconds", "header_timeout_seconds", "body_timeout_seconds"}
    given = {name: 5000 + place for place, name in enumerate(sorted(names | others))}
    settings = settings.model_copy(update=given)
    with serving(create_app(settings, models=Models([lists]))) as url:
        shown = httpx.get(f"{url}/limits").json()
        blob = b" " * (shown["import_bytes"] + 1)
        refused = httpx.put(f"{url}/memories/{new_memory_id()}/blob", content=blob)
    assert set(given.values()) <= set(shown.values())
    assert refused.json()["limit"] == shown["import_bytes"] > shown["body_bytes"]


def test_the_command_sets_the_limits(settings: Settings) -> None:
    words = ["keys", "create", "--max-memories", "5", "--max-bytes", "1000"]
    store = ["--store-url", settings.store_url]
    assert CliRunner().invoke(command, [*words, *store]).exit_code == 0
    line = CliRunner().invoke(command, ["keys", "list", *store]).stdout
    assert "max-memories=5 max-bytes=1000" in line
