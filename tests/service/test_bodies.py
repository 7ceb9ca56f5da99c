"""Bodies of a megabyte that are not what they should be: refused, and nobody waits for it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel

from service import bodies
from service.bodies import parse_body
from service.openai.schemas import ChatCompletionRequest

MEGABYTE = 10**6
BODIES = {
    "array": b'{"document":"a","metadata":[' + b"[]," * (MEGABYTE // 3 - 20) + b"[]]}",
    "fields": json.dumps({f"k{i}": i for i in range(60_000)}).encode(),
    "objects": b'{"document":[' + b'{"a":1},' * (MEGABYTE // 8 - 10) + b"1]}",
    "nested": b"[" * MEGABYTE,
    "number": b'{"document":"a","steps":' + b"1" * MEGABYTE + b"}",
    "surrogates": b'{"document":"' + b"\\ud800" * (MEGABYTE // 6) + b'"}',
    "end": b'{"document":"' + b"a" * MEGABYTE + b'"',
    "bytes": b'{"document":"' + b"\xff" * MEGABYTE + b'"}',
    "utf-16": '{"document":"a"}'.encode("utf-16"),
    "empty": b"",
    "list": b"[]",
}


@contextmanager
def asking_all_the_time(url: str) -> Iterator[None]:
    """Ask for `/livez` again and again; each answer has to come."""
    statuses: set[int] = set()
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not done.wait(0.01):
                statuses.add(client.get("/livez").status_code)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert statuses == {200}


def test_large_malformed_bodies_are_refused_while_others_are_answered(base_url: str) -> None:
    with httpx.Client(base_url=base_url, timeout=60) as client, asking_all_the_time(base_url):
        for name, body in BODIES.items():
            response = client.post(
                "/write", content=body, headers={"content-type": "application/json"}
            )
            assert response.status_code == 422, name
            assert response.json()["type"] == "urn:gradmem:problem:invalid-request"
            assert len(response.content) < 10_000


@pytest.mark.anyio
async def test_a_large_body_is_parsed_on_another_thread(
    base_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def note_thread(model: type[BaseModel], content: bytes) -> BaseModel:
        threads.append(threading.current_thread().name)
        return parse_body(model, content)

    monkeypatch.setattr(bodies, "parse_body", note_thread)
    headers = {"content-type": "application/json"}
    async with httpx.AsyncClient(base_url=base_url, headers=headers, timeout=60) as client:
        await client.post("/write", content=b"[]")
        await client.post("/write", content=BODIES["array"])
    loop, other = threads
    assert other != loop


CHATS = {
    "parts": {"messages": [{"role": "user", "content": [{}] * 256}] * 1024},
    "messages": {"messages": [{}] * 1024},
    "modalities": {"modalities": ["audio"] * 100_000},
}


@pytest.mark.parametrize("fields", CHATS.values(), ids=CHATS)
def test_the_errors_of_a_chat_are_few(fields: dict[str, object]) -> None:
    body = json.dumps({"model": "tiny", **fields}).encode()
    with pytest.raises(RequestValidationError) as caught:
        parse_body(ChatCompletionRequest, body)
    assert len(caught.value.errors()) < 10
