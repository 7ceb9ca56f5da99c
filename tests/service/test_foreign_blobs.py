"""Blobs that the service did not write itself: refused, or described without a failure.

`--hypothesis-profile=long` draws many more.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gradmem_core.blob import BlobInfo, PageInfo, ReadBack, check_shape, pack, unpack
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.config import BlobDtype
from gradmem_core.errors import BlobError
from service.app import create_app
from service.descriptions import describe_memory
from service.models import Models
from service.settings import Settings
from service.stores import create_store, new_memory_id
from tests.mutations import replace_value
from tests.service.conftest import Serving
from tests.service.stored import a_memory

DTYPES: tuple[BlobDtype, ...] = ("float32", "float16", "int8")
DOCUMENT, QUERY = "!aB:7x!!kk:Q3!|", "?!kk:"
PAGE = PageInfo(
    page_id="0123456789abcdef",
    write_steps=5,
    tokens=12,
    document_sha256="0" * 64,
    losses=(3.5, 0.1),
    write_accuracy=0.75,
    first_line=1,
    last_line=2,
    read_back=ReadBack(words=3, right=2, weak_lines=(1,)),
    created_at=datetime(2026, 1, 2, tzinfo=UTC),
)
SECOND = PAGE.model_copy(update={"page_id": "1" * 16, "losses": (2.5,), "read_back": None})


def a_blob(fingerprint: str = "f" * 64, shape: tuple[int, int] = (3, 4)) -> bytes:
    info = BlobInfo(fingerprint=fingerprint, pages=(PAGE, SECOND))
    return pack(torch.linspace(-2, 3, 2 * shape[0] * shape[1]).view(2, *shape), info)


def refused_or_described(content: bytes) -> None:
    try:
        blob = unpack(content)
    except BlobError:
        return
    memory = describe_memory(a_memory(content), blob)
    json.dumps(memory.model_dump(mode="json"), allow_nan=False)
    try:
        check_shape(blob, vectors=3, width=4)
    except BlobError:
        return
    assert blob.memory.shape == (len(blob.info.pages), 3, 4)
    assert blob.memory.isfinite().all()


def change_bytes(whole: bytes, data: st.DataObject) -> bytes:
    """Change bytes of a blob, and cut it or add to it."""
    content = bytearray(whole)
    position = st.integers(0, len(content) - 1)
    for at, value in data.draw(st.dictionaries(position, st.integers(0, 255), max_size=4)).items():
        content[at] = value
    end = data.draw(st.none() | position)
    return bytes(content[:end]) + data.draw(st.binary(max_size=3))


def change_json(whole: bytes, part: str, data: st.DataObject) -> bytes:
    """Change the header of a blob, or the description of the memory in it."""
    size = int.from_bytes(whole[:8], "little")
    header: Any = json.loads(whole[8 : 8 + size])
    if part == "header":
        header = replace_value(data, header)
    else:
        info = replace_value(data, json.loads(header["__metadata__"]["info"]))
        header["__metadata__"]["info"] = json.dumps(info)
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + whole[8 + size :]


@given(st.sampled_from(DTYPES), st.data())
def test_changed_bytes(dtype: BlobDtype, data: st.DataObject) -> None:
    info = BlobInfo(fingerprint="f" * 64, pages=(PAGE, SECOND))
    whole = pack(torch.linspace(-2, 3, 24).view(2, 3, 4), info, dtype=dtype)
    refused_or_described(change_bytes(whole, data))


@given(st.sampled_from(["header", "info"]), st.data())
def test_changed_descriptions(part: str, data: st.DataObject) -> None:
    refused_or_described(change_json(a_blob(), part, data))


@given(st.sampled_from(sorted(PageInfo.model_fields)), st.integers() | st.floats())
@example("tokens", 10**400)
@example("losses", 1e308)
@example("last_line", 2**53 + 1)
def test_numbers_without_bounds(field: str, value: float) -> None:
    content = a_blob()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    info = json.loads(header["__metadata__"]["info"])
    info["pages"][0][field] = [value] if field == "losses" else value
    header["__metadata__"]["info"] = json.dumps(info)
    encoded = json.dumps(header).encode()
    refused_or_described(struct.pack("<Q", len(encoded)) + encoded + content[8 + size :])


@pytest.fixture
def foreign(tiny: Checkpoint, tmp_path: Path, serving: Serving) -> Iterator[tuple[str, str]]:
    """URL of a service, and the id of a memory with pages that its checkpoint cannot have."""
    url = f"sqlite:///{tmp_path}/memories.db"
    memory = replace(a_memory(a_blob(tiny.fingerprint)), model=tiny.name)

    async def put() -> None:
        async with create_store(url) as store:
            await store.put(memory)

    anyio.run(put)
    with serving(create_app(Settings(store_url=url, threads=1), models=Models([tiny]))) as base:
        yield base, memory.memory_id


@pytest.mark.parametrize("route", ["read", "prompt-embeds"])
def test_a_memory_of_another_shape_is_refused(foreign: tuple[str, str], route: str) -> None:
    url, memory_id = foreign
    if route == "read":
        response = httpx.post(f"{url}/read", json={"memory_id": memory_id, "query": "?!aB:"})
    else:
        response = httpx.get(f"{url}/memories/{memory_id}/prompt-embeds?page={PAGE.page_id}")
    assert response.status_code == 500
    problem = response.json()
    assert problem["type"] == "urn:gradmem:problem:blob"
    assert problem["detail"].startswith("the memory's pages are 3 x 4 and those of its checkpoint")


@pytest.fixture(scope="module")
def imports(base_url: str) -> Iterator[tuple[httpx.Client, bytes]]:
    """A client of a service, and a blob that it takes."""
    with httpx.Client(base_url=base_url) as http:
        written = http.post("/write", json={"document": DOCUMENT, "steps": 1}).json()
        yield http, http.get(f"/memories/{written['memory_id']}/blob").content


@settings(max_examples=settings().max_examples // 2)  # each is some requests
@given(st.sampled_from(["bytes", "header", "info"]), st.data())
def test_a_changed_blob_is_refused_or_can_be_used(
    imports: tuple[httpx.Client, bytes], part: str, data: st.DataObject
) -> None:
    http, whole = imports
    content = change_bytes(whole, data) if part == "bytes" else change_json(whole, part, data)
    path = f"/memories/{new_memory_id()}"
    headers = {"content-type": "application/vnd.safetensors"}
    response = http.put(f"{path}/blob", content=content, headers=headers)
    assert response.status_code in {201, 409, 422}, response.text
    if response.status_code != 201:
        assert response.headers["content-type"] == "application/problem+json"
        return
    assert http.get(path).status_code == 200
    read = http.post("/read", json={"memory_id": path.removeprefix("/memories/"), "query": QUERY})
    assert read.status_code == 200, read.text
    assert http.delete(path).status_code == 204
