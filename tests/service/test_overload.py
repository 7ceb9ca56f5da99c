"""A service with more to do than it can: its refusals, and the part that each client gets."""

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import anyio
import httpx
import pytest
from fastapi import Request

from gradmem_core.checkpoints.checkpoint import Checkpoint
from service.access import ANYONE
from service.app import create_app
from service.clients import client_of
from service.engine import AdmissionLimits, BatchLimits, Engine, TorchDevice
from service.engine.device import OngoingWrite, WriteOutcome
from service.models import Models
from service.settings import Settings
from service.telemetry import Telemetry
from tests.service.conftest import Serving
from tests.service.engines import engine_on

DOCUMENT = "!aB:7x!!kk:Q3!|"
PAGES = 20
HEADER_WITHOUT_BODY = (
    b"POST /write HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    b"Content-Type: application/json\r\nContent-Length: 1\r\n\r\n"
)


class Slow(TorchDevice):
    """The real device, whose gradient steps wait for a gate."""

    def __init__(self) -> None:
        super().__init__(prefix_bytes=2**20)
        self.gate = threading.Event()

    def write_step(self, writes: Sequence[OngoingWrite]) -> list[WriteOutcome]:
        assert self.gate.wait(timeout=60)
        return super().write_step(writes)


@contextmanager
def another_client(url: str) -> Iterator[httpx.Client]:
    """Yield a client at another address of the loopback interface."""
    transport = httpx.HTTPTransport(local_address="127.0.0.2")
    with httpx.Client(base_url=url, transport=transport, timeout=60) as client:
        yield client


@pytest.mark.anyio
async def test_an_overload_of_one_client_is_its_own(
    settings: Settings, tiny: Checkpoint, serving: Serving
) -> None:
    device = Slow()
    engine = engine_on(
        device,
        BatchLimits(batch_tokens=200, batch_queries=16),
        AdmissionLimits(tokens=200, seconds=60),
        Telemetry(),
        threads=1,
    )
    with (
        serving(create_app(settings, models=Models([tiny]), engine=engine)) as url,
        another_client(url) as other,
    ):
        device.gate.set()
        written = other.post("/write", json={"document": DOCUMENT})
        memory_id = written.json()["memory_id"]
        device.gate.clear()
        statuses: list[int] = []
        async with (
            httpx.AsyncClient(base_url=url, timeout=60) as greedy,
            anyio.create_task_group() as group,
        ):

            async def write() -> None:
                response = await greedy.post("/write", json={"document": DOCUMENT})
                statuses.append(response.status_code)
                if response.status_code == 429:
                    assert int(response.headers["retry-after"]) >= 1

            for _ in range(PAGES):
                group.start_soon(write)
            while not statuses:  # refused at once: nothing else is answered behind the gate
                await anyio.sleep(0.01)
            assert statuses[0] == 429
            query = {"memory_id": memory_id, "query": "?!kk:"}
            threading.Timer(0.5, device.gate.set).start()
            # Beside the refused writes: a READ of either client, and a WRITE of the other.
            assert (await greedy.post("/read", json=query)).status_code == 200
            assert (
                await anyio.to_thread.run_sync(lambda: other.post("/read", json=query))
            ).is_success
            assert other.post("/write", json={"document": DOCUMENT}).status_code == 201
    assert set(statuses) == {201, 429}
    assert statuses.count(201) >= 4


def test_where_any_request_would_be_refused_its_body_is_not_read(
    settings: Settings, tiny: Checkpoint, serving: Serving
) -> None:
    app = create_app(settings, models=Models([tiny]))
    engine: Engine = app.state.gradmem.engine
    with serving(app) as url, another_client(url) as other:
        # As if the device took a second for a token, and had many to write for this client.
        engine._admission._pace.observe("write", "tiny", 10, 10.0)
        load = engine._admission._loads["write"]
        load.units["127.0.0.1"]["tiny"] = 5000
        response = httpx.post(f"{url}/write", content=b"{", timeout=60)
        assert response.status_code == 429
        # A body of one byte is eight token steps at most, and may wait for ten times as long.
        assert int(response.headers["retry-after"]) == 5000 - 10 * 8
        assert "try again in 4920 s" in response.json()["detail"]
        with socket.create_connection(("127.0.0.1", httpx.URL(url).port), timeout=60) as silent:
            silent.sendall(HEADER_WITHOUT_BODY)
            assert silent.recv(2**16).startswith(b"HTTP/1.1 429 ")
        assert httpx.post(f"{url}/read", content=b"{", timeout=60).status_code != 429
        assert other.post("/write", json={"document": DOCUMENT}).status_code == 201


def request_from(host: str | None) -> Request:
    state = {"identity": ANYONE}
    address = None if host is None else (host, 1234)
    return Request({"type": "http", "client": address, "headers": [], "state": state})


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("testclient", "testclient"),
    ],
)
def test_a_client_is_an_address_or_a_site(host: str, client: str) -> None:
    assert client_of(request_from(host)) == client
    assert client_of(request_from(None)) == ""
