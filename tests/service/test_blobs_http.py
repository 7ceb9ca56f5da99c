"""Export and import of memories over HTTP."""

import asyncio
import base64
import hashlib
from collections.abc import Iterator

import httpx
import pytest
import torch

from gradmem_core.blob import pack, unpack
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import StoreUnavailableError
from gradmem_core.tenants import DEFAULT_TENANT
from service.app import create_app
from service.client import Client, Conflict, InvalidRequest, NotFound
from service.models import Models
from service.settings import Settings
from service.stores import create_store, new_memory_id
from service.stores.redis import RedisStore
from tests.service.conftest import Serving
from tests.service.test_records_http import records

DOCUMENT = "!aB:7x!!kk:Q3!|"


@pytest.fixture
def client(base_url: str) -> Iterator[Client]:
    with Client(base_url) as client:
        yield client


def put(client: Client, memory_id: str, content: bytes, **headers: str) -> httpx.Response:
    url = f"{client.base_url}/memories/{memory_id}/blob"
    return httpx.put(url, content=content, headers=headers)


def test_an_exported_memory_is_imported_and_read(client: Client) -> None:
    memory = client.write(DOCUMENT)
    blob, other_id = memory.export(), new_memory_id()
    copy = client.import_memory(other_id, blob).info
    assert copy.memory_id == other_id
    assert copy.pages == memory.info.pages
    assert client.memory(other_id).describe() == copy
    assert client.memory(other_id).export() == blob
    answers = [client.memory(each).ask("?!kk:") for each in (memory.memory_id, other_id)]
    assert answers[0] == answers[1]
    assert other_id in {each.memory_id for each in client.memories()}


def test_a_blob_has_its_digest(client: Client) -> None:
    memory_id = client.write(DOCUMENT).memory_id
    url = f"{client.base_url}/memories/{memory_id}/blob"
    response = httpx.get(url)
    digest = hashlib.sha256(response.content).digest()
    assert response.headers["etag"] == f'"{digest.hex()}"'
    expected = f"sha-256=:{base64.b64encode(digest).decode()}:"
    assert response.headers["content-digest"] == expected
    for known in (response.headers["etag"], f'"x", W/{response.headers["etag"]}', "*"):
        unchanged = httpx.get(url, headers={"If-None-Match": known})
        assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert httpx.get(url, headers={"If-None-Match": '"x"'}).status_code == 200


def test_an_import_is_repeated_but_overwrites_nothing(client: Client) -> None:
    memory_id = new_memory_id()
    blob, other = (client.write(DOCUMENT).export() for _ in range(2))
    assert put(client, memory_id, blob).status_code == 201
    assert put(client, memory_id, blob).status_code == 200
    with pytest.raises(Conflict, match="overwrites nothing"):
        client.import_memory(memory_id, other)
    assert client.memory(memory_id).export() == blob


def test_a_failed_import_deletes_nothing(
    redis_server: str,
    settings: Settings,
    tiny: Checkpoint,
    serving: Serving,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = create_app(settings.model_copy(update={"store_url": redis_server}), models=Models([tiny]))

    async def fail(*_: object) -> None:
        raise StoreUnavailableError("the reply is lost")

    memory_id = new_memory_id()
    with serving(app) as url, Client(url) as client:
        blob = client.write(DOCUMENT).export()
        assert put(client, memory_id, blob).status_code == 201
        monkeypatch.setattr(RedisStore, "_publish", fail)
        assert put(client, memory_id, blob).status_code == 503
        monkeypatch.undo()
    assert asyncio.run(stored_blob(redis_server, memory_id)) == blob


async def stored_blob(store_url: str, memory_id: str) -> bytes:
    async with create_store(store_url) as store:
        return (await store.get(DEFAULT_TENANT, memory_id)).blob


def test_a_bad_blob_is_refused(client: Client) -> None:
    blob, memory_id = client.write(DOCUMENT).export(), new_memory_id()
    decoded = unpack(blob)
    (page,) = decoded.info.pages
    foreign = decoded.info.model_copy(update={"tenant": "acme"})
    twice = decoded.info.model_copy(update={"pages": (page, page)})
    for content in (
        b"",
        b"not a blob",
        blob[:-1],
        pack(decoded.memory[:, :-1], decoded.info),
        pack(decoded.memory, foreign),
        pack(torch.cat([decoded.memory] * 2), twice),
    ):
        with pytest.raises(InvalidRequest):
            client.import_memory(memory_id, content)
    unknown = decoded.info.model_copy(update={"fingerprint": "0" * 64})
    with pytest.raises(Conflict, match="not served"):
        client.import_memory(memory_id, pack(decoded.memory, unknown))
    with pytest.raises(InvalidRequest, match="32 lower-case"):
        client.import_memory("mine", blob)
    with pytest.raises(NotFound):
        client.memory(memory_id).export()


def test_an_import_is_limited_by_its_pages(
    lists: Checkpoint, settings: Settings, serving: Serving
) -> None:
    small = settings.model_copy(update={"max_body_bytes": 1024, "max_pages": 2})
    app = create_app(small, models=Models([lists]))
    with serving(app) as url, Client(url) as client:
        written = httpx.post(f"{url}/write", json={"document": records(8)}, timeout=60).json()
        blob = httpx.get(f"{url}/memories/{written['memory_id']}/blob").content
        assert len(unpack(blob).info.pages) == 2
        large = pack(unpack(blob).memory, unpack(blob).info, dtype="float32")
        assert len(large) > 1024
        assert put(client, new_memory_id(), large).status_code == 201
        decoded = unpack(blob)
        page = decoded.info.pages[0].model_copy(update={"page_id": "0" * 16})
        info = decoded.info.model_copy(update={"pages": (*decoded.info.pages, page)})
        three = pack(torch.cat([decoded.memory, decoded.memory[:1]]), info)
        refused = put(client, new_memory_id(), three)
        assert refused.status_code == 413
        assert refused.json()["type"] == "urn:gradmem:problem:too-many-pages"
        assert put(client, new_memory_id(), bytes(2**20)).status_code == 413
        other = httpx.post(f"{url}/write", json={"document": "a: 1" * 1000})
        assert other.json()["limit"] == 1024


def test_a_wrong_digest_is_refused(client: Client) -> None:
    blob, memory_id = client.write(DOCUMENT).export(), new_memory_id()
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode()
    wrong = put(client, memory_id, blob + b" ", **{"Content-Digest": f"sha-256=:{digest}:"})
    assert wrong.status_code == 422
    assert "Content-Digest" in wrong.json()["detail"]
    right = put(client, memory_id, blob, **{"Content-Digest": f"md5=:x:, sha-256=:{digest}:"})
    assert right.status_code == 201
