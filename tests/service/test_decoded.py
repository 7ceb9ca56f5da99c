"""Memories that stay decoded for later requests: never longer than the store has them so."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

import service.memories
from gradmem_core.blob import Blob, unpack
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.tenants import DEFAULT_TENANT
from service.app import create_app
from service.models import Models
from service.settings import Settings
from tests.service.conftest import Serving

DOCUMENT = "!aB:7x!!kk:Q3!|"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The blobs that were decoded."""
    blobs: list[bytes] = []

    def recorded(data: bytes) -> Blob:
        blobs.append(data)
        return unpack(data)

    monkeypatch.setattr(service.memories, "unpack", recorded)
    return blobs


@pytest.fixture
def make_app(tiny: Checkpoint, tmp_path: Path) -> Callable[[], FastAPI]:
    """Return an app of a service; all of them share a store."""
    settings = Settings(store_url=f"sqlite:///{tmp_path}/memories.db", threads=1)
    return lambda: create_app(settings, models=Models([tiny]))


@pytest.fixture
def app(make_app: Callable[[], FastAPI]) -> FastAPI:
    return make_app()


@pytest.fixture
def http(app: FastAPI, serving: Serving) -> Iterator[httpx.Client]:
    with serving(app) as base_url, httpx.Client(base_url=base_url) as client:
        yield client


def write(http: httpx.Client) -> str:
    response = http.post("/write", json={"document": DOCUMENT, "steps": 1})
    assert response.is_success, response.text
    memory_id: str = response.json()["memory_id"]
    return memory_id


def read(http: httpx.Client, memory_id: str) -> httpx.Response:
    return http.post("/read", json={"memory_id": memory_id, "query": "?!aB:"})


def test_a_memory_is_decoded_for_its_first_read_alone(
    http: httpx.Client, decoded: list[bytes]
) -> None:
    memory_id = write(http)
    first, second = read(http, memory_id), read(http, memory_id)
    assert first.status_code == 200
    assert first.json() == second.json()
    assert len(decoded) == 1


def test_a_memory_that_another_service_changed_is_decoded_anew(
    http: httpx.Client,
    make_app: Callable[[], FastAPI],
    serving: Serving,
    decoded: list[bytes],
) -> None:
    memory_id = write(http)
    page = read(http, memory_id).json()["answers"][0]["page_id"]
    with serving(make_app()) as url, httpx.Client(base_url=url) as other:
        replaced = other.put(
            f"/memories/{memory_id}/pages/{page}", json={"document": "!aB:k!|", "steps": 1}
        )
        assert replaced.is_success
        decoded.clear()
        assert read(http, memory_id).json() == read(other, memory_id).json()
        assert len(set(decoded)) == 1
        assert len(decoded) == 2  # each has decoded it
        assert other.delete(f"/memories/{memory_id}").status_code == 204
    assert read(http, memory_id).status_code == 404


def test_a_changed_memory_is_decoded_once_more(http: httpx.Client, decoded: list[bytes]) -> None:
    memory_id = write(http)
    read(http, memory_id)
    http.patch(f"/memories/{memory_id}", json={"name": "another"})
    decoded.clear()  # the change itself decodes what it changes
    read(http, memory_id)
    assert http.get(f"/memories/{memory_id}").json()["name"] == "another"
    assert len(decoded) == 1


def test_a_memory_that_was_deleted_does_not_stay(http: httpx.Client, app: FastAPI) -> None:
    kept = app.state.gradmem.memories._decoded
    memory_id, other, replaced = write(http), write(http), write(http)
    pages = [read(http, each).json()["answers"][0]["page_id"] for each in (memory_id, other)]
    page = read(http, replaced).json()["answers"][0]["page_id"]
    assert (len(pages), len(list(kept))) == (2, 3)
    http.delete(f"/memories/{memory_id}")
    assert len(list(kept)) == 2
    http.post("/memories/delete", json={"memory_ids": [other]})
    assert len(list(kept)) == 1
    http.put(f"/memories/{replaced}/pages/{page}", json={"document": "!aB:k!|", "steps": 1})
    assert kept.bytes == 0


def test_a_memory_that_another_service_deleted_leaves_once_it_is_missed(
    http: httpx.Client, app: FastAPI, make_app: Callable[[], FastAPI], serving: Serving
) -> None:
    kept = app.state.gradmem.memories._decoded
    memory_id = write(http)
    read(http, memory_id)
    with serving(make_app()) as url:
        httpx.delete(f"{url}/memories/{memory_id}")
    assert kept.bytes > 0
    assert read(http, memory_id).status_code == 404
    assert kept.bytes == 0


@pytest.mark.anyio
async def test_a_memory_that_is_deleted_while_it_is_decoded_does_not_stay(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with app.router.lifespan_context(app):
        memories = app.state.gradmem.memories
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            response = await client.post("/write", json={"document": DOCUMENT, "steps": 1})
        memory_id = response.json()["memory_id"]

        async def decode_late(_size: int, decode: Callable[..., Blob], *values: object) -> Blob:
            await memories.delete(DEFAULT_TENANT, memory_id)
            return decode(*values)

        monkeypatch.setattr(service.memories, "call_by_size", decode_late)
        assert (await memories.open(DEFAULT_TENANT, memory_id)).stored.memory_id == memory_id
        assert memories._decoded.bytes == 0
