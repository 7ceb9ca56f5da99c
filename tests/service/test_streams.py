"""Event streams, clients that leave, and requests that time out, over a real uvicorn."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import torch

from gradmem_core.checkpoints.checkpoint import Checkpoint
from service.app import create_app
from service.engine import AdmissionLimits, BatchLimits, Engine, TorchDevice
from service.engine.device import OngoingWrite, WriteOutcome
from service.models import Models
from service.settings import Settings
from service.telemetry import Telemetry
from tests.service.conftest import Serving
from tests.service.engines import engine_on

DOCUMENT = "!aB:7x!!kk:Q3!!0z:mN!|"
QUERIES = ["?!aB:", "?!kk:"]
EVENTS = {"Accept": "text/event-stream"}


class Slow(TorchDevice):
    """The real device, where each gradient step waits for a permit."""

    def __init__(self) -> None:
        super().__init__(prefix_bytes=0)
        self.permits = threading.Semaphore(0)
        self.steps = 0
        self.error: Exception | None = None
        self.telemetry = Telemetry()

    def write_step(self, writes: Sequence[OngoingWrite]) -> list[WriteOutcome]:
        assert self.permits.acquire(timeout=30)
        self.steps += 1
        if self.error:
            raise self.error
        return super().write_step(writes)


@contextmanager
def slow_service(
    settings: Settings, tiny: Checkpoint, serving: Serving
) -> Iterator[tuple[Slow, httpx.Client, Engine]]:
    device = Slow()
    telemetry = Telemetry()
    engine = engine_on(device, BatchLimits(1000, 100), AdmissionLimits(1000, 20), telemetry)
    app = create_app(settings, models=Models([tiny]), engine=engine)
    with serving(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        device.telemetry = telemetry
        yield device, client, engine
        device.permits.release(100)


def events_of(text: str) -> list[tuple[str, Any]]:
    events = []
    for block in text.split("\n\n"):
        if block:
            name, data = block.split("\n")
            assert name.startswith("event: ")
            assert data.startswith("data: ")
            events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


def test_write_streams_every_step(base_url: str) -> None:
    body = {"document": DOCUMENT, "steps": 3}
    response = httpx.post(f"{base_url}/write", json=body, headers=EVENTS)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    *steps, (name, result) = events_of(response.text)
    assert name == "result"
    events = [(name, data["step"], data["loss"]) for name, data in steps]
    assert events == [("step", i + 1, result["losses"][i]) for i in range(3)]
    shown = httpx.get(f"{base_url}/memories/{result['memory_id']}").json()
    assert {name: result[name] for name in shown} == shown


def test_steps_arrive_while_the_memory_is_written(
    settings: Settings, tiny: Checkpoint, serving: Serving
) -> None:
    with slow_service(settings, tiny, serving) as (device, client, _):
        device.permits.release()
        body = {"document": DOCUMENT, "steps": 2}
        with client.stream("POST", "/write", json=body, headers=EVENTS) as response:
            lines = response.iter_lines()
            assert next(lines) == "event: step"
            assert device.steps == 1
            device.permits.release()
            assert "event: result" in list(lines)


def test_read_streams_every_token(base_url: str) -> None:
    memory = httpx.post(f"{base_url}/write", json={"document": DOCUMENT}).json()["memory_id"]
    body = {"memory_id": memory, "queries": QUERIES, "max_new_tokens": 5}
    plain = httpx.post(f"{base_url}/read", json=body).json()
    *tokens, (name, result) = events_of(
        httpx.post(f"{base_url}/read", json={**body, "stream": True}).text
    )
    assert name == "result"
    assert result == plain
    assert result["tokens"] == sum(answer["tokens"] for answer in result["answers"])
    for query, answer in enumerate(result["answers"]):
        texts = [data["text"] for _, data in tokens if data["query"] == query]
        assert "".join(texts) == answer["answer"]
        assert len(texts) == answer["tokens"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/write", {"document": "é"}),
        ("/write", {"document": DOCUMENT, "steps": 1000}),
        ("/read", {"memory_id": "0" * 32, "query": "?!a:", "stream": True}),
    ],
)
def test_a_refusal_before_the_first_event_is_an_ordinary_problem(
    base_url: str, path: str, body: dict[str, Any]
) -> None:
    response = httpx.post(f"{base_url}{path}", json=body, headers=EVENTS)
    assert response.status_code in (404, 422)
    assert response.headers["content-type"] == "application/problem+json"


def test_a_failure_after_the_first_event_is_an_event(
    settings: Settings, tiny: Checkpoint, serving: Serving
) -> None:
    with slow_service(settings, tiny, serving) as (device, client, _):
        device.permits.release()
        body = {"document": DOCUMENT, "steps": 2}
        with client.stream("POST", "/write", json=body, headers=EVENTS) as response:
            parts = response.iter_text()
            text = next(parts)
            device.error = RuntimeError(DOCUMENT)
            device.permits.release()
            text += "".join(parts)
        events = events_of(text)
        assert [name for name, _ in events] == ["step", "error"]
        assert events[1][1]["type"] == "urn:gradmem:problem:device"
        assert DOCUMENT not in text


@pytest.mark.parametrize("headers", [{}, EVENTS])
def test_the_work_of_a_client_that_leaves_is_dropped(
    settings: Settings, tiny: Checkpoint, serving: Serving, headers: dict[str, str]
) -> None:
    with slow_service(settings, tiny, serving) as (device, client, _):
        device.permits.release()
        body = {"document": DOCUMENT, "steps": 8}
        with (
            pytest.raises(httpx.ReadTimeout),
            client.stream("POST", "/write", json=body, headers=headers, timeout=0.5) as response,
        ):
            response.read()
        time.sleep(0.2)
        device.permits.release(2)  # the step in progress, and that of the other document
        assert client.post("/write", json={"document": DOCUMENT, "steps": 1}).status_code == 201
        assert device.steps == 3
        assert b"gradmem_cancelled_total 1.0" in device.telemetry.exposition()
        left = 'gradmem_requests_total{method="POST",route="/write",status="499"} 1.0'
        assert left in client.get("/metrics").text


def test_a_timeout_is_504(settings: Settings, tiny: Checkpoint, serving: Serving) -> None:
    with slow_service(settings, tiny, serving) as (device, client, _):
        response = client.post("/write", json={"document": DOCUMENT, "timeout": 0.1})
        assert response.status_code == 504
        assert response.json()["type"] == "urn:gradmem:problem:timeout"
        assert "0.1 s" in response.json()["detail"]
        device.permits.release(2)
        assert client.post("/write", json={"document": DOCUMENT, "steps": 1}).status_code == 201


def test_a_service_that_lost_its_device_is_not_ready(
    settings: Settings, tiny: Checkpoint, serving: Serving
) -> None:
    with slow_service(settings, tiny, serving) as (device, client, engine):
        assert client.get("/livez").status_code == 200
        device.error = torch.AcceleratorError("lost")
        device.permits.release()
        response = client.post("/write", json={"document": DOCUMENT})
        assert response.status_code == 503
        assert response.json()["type"] == "urn:gradmem:problem:stopping"
        assert client.get("/readyz").status_code == 503
        assert client.get("/livez").status_code == 503
        assert not engine.alive


def test_auto_reports_the_steps_taken(base_url: str, tiny: Checkpoint) -> None:
    body = {"document": DOCUMENT, "steps": "auto"}
    memory = httpx.post(f"{base_url}/write", json=body).json()
    assert 1 <= memory["write_steps"] <= tiny.model.config.max_write_steps
    assert len(memory["losses"]) == memory["write_steps"] + 1
