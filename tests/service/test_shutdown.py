"""The end of a service: everything that waits is answered first."""

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from fastapi import FastAPI

from gradmem_core.checkpoints.checkpoint import Checkpoint
from service.schemas import TokenEvent
from service.server import Server
from service.settings import Settings
from tests.service.conftest import Serving, started
from tests.service.test_connections import POST, connect, receive_all
from tests.service.test_streams import DOCUMENT, EVENTS, QUERIES, events_of, slow_service

BODY = {"document": DOCUMENT, "steps": 2}
STOPPING = "urn:gradmem:problem:stopping"


class Ending:
    """Serves apps with the server of `gradmem serve`, and ends it as a signal does."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.servers: list[Server] = []

    @contextmanager
    def __call__(self, app: FastAPI) -> Iterator[str]:
        self.servers.append(Server(app, self.settings))
        with started(self.servers[-1]) as url:
            yield url

    def end(self) -> None:
        self.servers[-1].handle_exit(signal.SIGTERM, None)


@pytest.fixture
def ending(settings: Settings) -> Ending:
    return Ending(settings.model_copy(update={"port": 0, "shutdown_seconds": 0.5}))


def test_everything_that_waits_is_answered(
    ending: Ending, tiny: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with (
        slow_service(ending.settings, tiny, ending) as (device, client, _),
        ThreadPoolExecutor() as pool,
        connect(str(client.base_url).rstrip("/")) as half,
    ):
        half.sendall(POST + b"{")
        device.permits.release()
        with client.stream("POST", "/write", json=BODY, headers=EVENTS) as stream:
            parts = stream.iter_text()
            text = next(parts)
            plain = pool.submit(client.post, "/write", json=BODY)
            unstarted = pool.submit(client.post, "/write", json=BODY, headers=EVENTS)
            wait_for_requests(ending, 4)
            ending.end()
            text += "".join(parts)
        events = events_of(text)
        assert [name for name, _ in events] == ["step", "error"]
        assert events[1][1]["type"] == STOPPING
        for response in (plain.result(30), unstarted.result(30)):
            assert response.status_code == 503
            assert response.json()["type"] == STOPPING
            assert "retry-after" in response.headers
        assert receive_all(half).startswith(b"HTTP/1.1 503 ")
        device.permits.release(100)
    assert "POST /write 200" not in caplog.text
    assert caplog.text.count("POST /write 503") == 4
    assert "Traceback" not in caplog.text


def test_what_can_finish_in_time_does(ending: Ending, tiny: Checkpoint) -> None:
    ending.settings = ending.settings.model_copy(update={"shutdown_seconds": 30})
    with (
        slow_service(ending.settings, tiny, ending) as (device, client, _),
        ThreadPoolExecutor() as pool,
    ):
        plain = pool.submit(client.post, "/write", json=BODY)
        wait_for_requests(ending, 1)
        ending.end()
        device.permits.release(2)
        assert plain.result(30).status_code == 201


def test_a_store_that_hangs_holds_up_no_answers(
    ending: Ending, tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered, begun = threading.Event(), threading.Event()

    async def hang(_: object) -> None:
        begun.set()
        await asyncio.to_thread(answered.wait, 20)

    with (
        slow_service(ending.settings, tiny, ending) as (device, client, _),
        ThreadPoolExecutor() as pool,
    ):
        monkeypatch.setattr(ending.servers[-1]._job_worker._jobs, "give_back", hang)
        job = client.post("/write", json=BODY, headers={"Prefer": "respond-async"}).json()
        while client.get(f"/jobs/{job['job_id']}").json()["status"] != "running":
            time.sleep(0.02)
        plain = pool.submit(client.post, "/write", json=BODY)
        wait_for_requests(ending, 1)
        ending.end()
        try:
            assert plain.result(10).status_code == 503
            assert begun.is_set()
        finally:
            answered.set()
            device.permits.release(100)


def wait_for_requests(ending: Ending, number: int) -> None:
    deadline = time.monotonic() + 20
    while len(ending.servers[-1].server_state.tasks) < number:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)  # until the engine has the last of them


def test_an_event_that_cannot_be_sent_is_an_error_event(
    settings: Settings,
    tiny: Checkpoint,
    serving: Serving,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    with slow_service(settings, tiny, serving) as (device, client, _):
        device.permits.release(10)
        memory = client.post("/write", json=BODY).json()["memory_id"]
        texts = iter(["a"])

        def encode(_event: TokenEvent) -> str:
            return f'{{"text": "{next(texts)}"}}'

        monkeypatch.setattr(TokenEvent, "model_dump_json", encode)
        body = {"memory_id": memory, "queries": QUERIES, "stream": True}
        events = events_of(client.post("/read", json=body).text)
        assert [name for name, _ in events] == ["token", "error"]
        assert events[1][1]["type"] == "urn:gradmem:problem:internal"
    assert "POST /read 500" in caplog.text
