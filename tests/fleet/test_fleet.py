"""The service on a real Ray cluster: answers, streams, clients that leave, overload, lost replicas.

The tests share a cluster, and run in their order: the last ones have two replicas for WRITE.
"""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.fleet.cluster import Fleet, cpu_seconds, make_small

SETTINGS = {
    "GRADMEM_CHECKPOINTS": "records",
    "GRADMEM_INSECURE": "true",
    "GRADMEM_MAX_TOKENS": "6000",
    "GRADMEM_SELF_TEST": "false",
}
SHORT = "Ada Lovelace: 1815\nCity of birth: London\nDoor code: 4711#\n"
QUERIES = ["Ada Lovelace", "door code", "Postcode"]
LONG = "".join(f"entry {number}: {number * 7919 % 100_000}\n" for number in range(60))
MOST_STEPS = 20


@pytest.fixture(scope="module")
def fleet(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("fleet"), redis_server) as fleet:
        fleet.deploy(make_small(fleet.port, settings=SETTINGS))
        yield fleet


@pytest.fixture
def http(fleet: Fleet) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=fleet.url, timeout=120) as client:
        yield client


def write_and_read(
    http: httpx.Client | TestClient,
) -> tuple[list[float], list[tuple[str | None, float]]]:
    """Return the losses of a WRITE, and the answers with their confidence."""
    written = http.post("/write", json={"document": SHORT})
    assert written.status_code == 201, written.text
    query = {"memory_id": written.json()["memory_id"], "queries": QUERIES}
    answers = http.post("/read", json=query).json()["answers"]
    return written.json()["losses"], [(each["answer"], each["confidence"]) for each in answers]


def events_of(http: httpx.Client, path: str, body: dict[str, Any]) -> list[tuple[str, Any]]:
    accept = {"Accept": "text/event-stream"}
    response = http.post(path, json=body, headers=accept)
    assert response.status_code == 200, response.text
    blocks = [block.splitlines() for block in response.text.split("\n\n") if block]
    return [(name[7:], json.loads(data[6:])) for name, data in blocks]


def count_left(http: httpx.Client) -> float:
    """Return the number of WRITEs whose clients left."""
    name = 'gradmem_requests_total{method="POST",route="/write",status="499"} '
    lines = http.get("/metrics").text.splitlines()
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def cpu_seconds_within(pid: int, seconds: float) -> float:
    before = cpu_seconds(pid)
    time.sleep(seconds)
    return cpu_seconds(pid) - before


def test_the_fleet_answers_as_the_plain_service(http: httpx.Client, tmp_path: Path) -> None:
    settings = Settings(checkpoints=["records"], store_url=f"sqlite:///{tmp_path / 'plain.db'}")
    with TestClient(create_app(settings), base_url="http://localhost") as plain:
        losses, answers = write_and_read(plain)
    fleet_losses, fleet_answers = write_and_read(http)
    assert fleet_losses == pytest.approx(losses, rel=1e-4)
    assert [answer for answer, _ in fleet_answers] == [answer for answer, _ in answers]
    assert [score for _, score in fleet_answers] == pytest.approx(
        [score for _, score in answers], abs=1e-3
    )
    assert answers[1][0] == "4711#"


def test_steps_and_tokens_are_streamed(http: httpx.Client) -> None:
    events = events_of(http, "/write", {"document": SHORT, "steps": 3})
    assert [name for name, _ in events] == ["step", "step", "step", "result"]
    assert [event["step"] for _, event in events[:3]] == [1, 2, 3]
    body = {"memory_id": events[-1][1]["memory_id"], "query": "door code", "stream": True}
    *tokens, last = [name for name, _ in events_of(http, "/read", body)]
    assert set(tokens) == {"token"}
    assert last == "result"


def test_a_problem_is_that_of_the_plain_service(http: httpx.Client) -> None:
    response = http.post("/read", json={"memory_id": "0" * 32, "query": "?"})
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == "urn:gradmem:problem:memory-not-found"
    assert response.headers.get_list("x-request-id") == [response.json()["request_id"]]


def test_a_response_has_the_id_that_its_client_chose_once(http: httpx.Client) -> None:
    response = http.get("/livez", headers={"X-Request-Id": "order-7"})
    assert response.headers.get_list("x-request-id") == ["order-7"]


def test_a_client_that_leaves_frees_its_place(fleet: Fleet, http: httpx.Client) -> None:
    (writer,) = fleet.replicas("Writer")
    before = count_left(http)
    with http.stream(
        "POST",
        "/write",
        json={"document": LONG * 4, "steps": MOST_STEPS},
        headers={"Accept": "text/event-stream"},
    ) as response:
        assert next(response.iter_lines()) == "event: step"
    wait_until(lambda: count_left(http) > before)
    # A minute of work was left.
    wait_until(lambda: cpu_seconds_within(writer, 3) < 0.15)


@pytest.mark.anyio
async def test_overload_is_refused_and_every_request_answered(fleet: Fleet) -> None:
    body = {"document": LONG, "steps": MOST_STEPS}
    async with httpx.AsyncClient(base_url=fleet.url, timeout=120) as http:
        responses = await asyncio.gather(*(http.post("/write", json=body) for _ in range(30)))
    statuses = Counter(response.status_code for response in responses)
    assert statuses.keys() == {201, 429}
    for response in responses:
        if response.status_code == 429:
            assert response.json()["type"] == "urn:gradmem:problem:overloaded"
            assert int(response.headers["Retry-After"]) >= 1


@pytest.mark.anyio
async def test_a_lost_replica_loses_no_write(fleet: Fleet) -> None:
    """The work that it has not answered goes to the other one."""
    fleet.deploy(make_small(fleet.port, writers=2, settings=SETTINGS))
    first, second = fleet.replicas("Writer")
    before = cpu_seconds(second)
    written: dict[str, str] = {}

    async def write(client: httpx.AsyncClient, number: int) -> None:
        body = {"document": f"Number {number}: {number * 31}\n", "steps": MOST_STEPS}
        while (response := await client.post("/write", json=body)).status_code == 429:
            await asyncio.sleep(int(response.headers["Retry-After"]))
        assert response.status_code == 201, response.text
        written[response.json()["memory_id"]] = str(number)

    async with httpx.AsyncClient(base_url=fleet.url, timeout=120) as client:
        writes = [asyncio.create_task(write(client, number)) for number in range(40)]
        async with asyncio.timeout(100):
            while len(written) < 8:
                await asyncio.sleep(0.02)
        assert len(written) < 40
        os.kill(first, signal.SIGKILL)
        await asyncio.gather(*writes)
        assert cpu_seconds(second) > before
        for memory_id, number in written.items():
            body = {"memory_id": memory_id, "query": f"Number {number}"}
            response = await client.post("/read", json=body)
            assert response.status_code == 200, response.text


def test_a_stream_that_has_begun_is_told_of_a_lost_replica(
    fleet: Fleet, http: httpx.Client
) -> None:
    before = {writer: cpu_seconds(writer) for writer in fleet.replicas("Writer")}
    body = {"document": LONG * 4, "steps": MOST_STEPS}
    accept = {"Accept": "text/event-stream"}
    with http.stream("POST", "/write", json=body, headers=accept) as response:
        lines = response.iter_lines()
        for _ in range(120):
            next(lines)
        busiest = max(before, key=lambda writer: cpu_seconds(writer) - before[writer])
        os.kill(busiest, signal.SIGKILL)
        *_, name, data, _ = lines
    assert name == "event: error"
    assert json.loads(data[6:])["type"] == "urn:gradmem:problem:device-lost"


def test_the_logs_hold_no_text_and_no_memory_ids(fleet: Fleet, http: httpx.Client) -> None:
    memory_id = http.post("/write", json={"document": SHORT}).json()["memory_id"]
    assert http.get(f"/memories/{memory_id}").status_code == 200
    assert http.delete(f"/memories/{memory_id}").status_code == 204
    logs = fleet.read_logs()
    assert "POST /write 201" in logs
    for secret in (memory_id, "Lovelace", "4711#", "door code"):
        assert secret not in logs
