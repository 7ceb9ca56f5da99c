"""Clients that send without end, slowly or nothing, over a real uvicorn: they hold nothing."""

import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from gradmem_core.checkpoints.checkpoint import Checkpoint
from service.app import create_app
from service.connections import ConnectionLimits
from service.models import Models
from service.server import Server, count_connections
from service.settings import Settings
from tests.service.conftest import started
from tests.service.test_streams import DOCUMENT, slow_service

HEAD = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
POST = (
    b"POST /write HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 100\r\n\r\n"
)
CHUNKED = (
    b"POST /write HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


@contextmanager
def bounded_service(settings: Settings, tiny: Checkpoint, **fields: object) -> Iterator[str]:
    """A service with the server of `gradmem serve`, and other settings."""
    changed = settings.model_copy(update={"port": 0, **fields})
    with started(Server(create_app(changed, models=Models([tiny])), changed)) as url:
        yield url


@pytest.fixture(scope="module")
def url(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service that gives its clients little time."""
    store = f"sqlite:///{tmp_path_factory.mktemp('store')}/memories.db"
    settings = Settings(store_url=store, threads=1)
    with bounded_service(
        settings, tiny, header_timeout_seconds=0.5, body_timeout_seconds=0.5, max_connections=20
    ) as url:
        yield url


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.settimeout(20)
    return connection


def receive_all(connection: socket.socket) -> bytes:
    """Return what comes until the other side closes; a reset closes too."""
    parts = []
    try:
        while part := connection.recv(2**16):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def send_without_end(connection: socket.socket, start: bytes) -> int:
    """Send until the other side closes; return the bytes that it took."""
    connection.sendall(start)
    sent = 0
    try:
        while sent < 2**28:
            sent += connection.send(b"a" * 2**16)
    except ConnectionError:
        return sent
    raise AssertionError("the service took everything")


def trickle(connection: socket.socket) -> int:
    """Send a byte every 50 ms until the other side closes; return their number, at most 200."""
    for sent in range(200):
        try:
            connection.sendall(b"a")
        except ConnectionError:
            return sent
        time.sleep(0.05)
    return 200


def is_alive(url: str) -> bool:
    with connect(url) as connection:
        connection.sendall(HEAD + b"Connection: close\r\n\r\n")
        return receive_all(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"GET /",
        HEAD + b"X: ",
        HEAD,
        CHUNKED + b"1;",
        CHUNKED + b"0\r\nX: ",
    ],
    ids=["method", "path", "value", "name", "chunk extension", "trailer"],
)
def test_what_has_no_end_is_cut_off(url: str, start: bytes) -> None:
    with connect(url) as connection:
        assert send_without_end(connection, start) < 2**24
    assert is_alive(url)


def test_a_header_without_end_is_told_so(url: str) -> None:
    with connect(url) as connection:
        connection.sendall(HEAD + b"X: " + b"a" * 2**17)
        answer = receive_all(connection)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"application/problem+json" in answer
    assert b'"limit":65536' in answer


def test_a_large_header_that_ends_is_refused_too(url: str) -> None:
    response = httpx.get(f"{url}/livez", headers={"X": "a" * 2**16})
    assert response.status_code == 431
    assert response.json()["type"] == "urn:gradmem:problem:header-too-large"
    assert httpx.get(f"{url}/livez", headers={"X": "a" * 60_000}).status_code == 200


def test_a_silent_connection_is_closed(url: str) -> None:
    with connect(url) as connection:
        assert receive_all(connection) == b""


@pytest.mark.parametrize("start", [HEAD, b"\r\n", b"GET"])
def test_a_slow_header_is_timed_out(url: str, start: bytes) -> None:
    with connect(url) as connection:
        connection.sendall(start)
        answer = receive_all(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"urn:gradmem:problem:header-timeout" in answer


def test_bytes_that_trickle_give_no_more_time(url: str) -> None:
    with connect(url) as connection:
        connection.sendall(HEAD + b"X: ")
        assert trickle(connection) < 200


def test_a_slow_body_is_timed_out(url: str) -> None:
    with connect(url) as connection:
        connection.sendall(POST + b"{")
        answer = connection.recv(2**16)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"urn:gradmem:problem:body-timeout" in answer


def test_what_is_no_http_is_a_problem(url: str) -> None:
    with connect(url) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
        answer = receive_all(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"urn:gradmem:problem:malformed-request" in answer


@pytest.mark.parametrize("chunk", [b"x\r\n", b"1\r\n{\r\nx"])
@pytest.mark.parametrize("first", [b"", HEAD + b"\r\n"], ids=["alone", "pipelined"])
def test_a_malformed_chunk_is_a_problem(url: str, first: bytes, chunk: bytes) -> None:
    with connect(url) as connection:
        connection.sendall(first + CHUNKED + chunk)
        answer = receive_all(connection)
    if first:
        assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 ") == 1 + bool(first)
    assert b"HTTP/1.1 400 " in answer
    assert b"urn:gradmem:problem:malformed-request" in answer


def test_a_trailer_without_end_is_told_so(url: str) -> None:
    with connect(url) as connection:
        connection.sendall(CHUNKED + b"0\r\nX: " + b"a" * 2**19)
        answer = receive_all(connection)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"urn:gradmem:problem:header-too-large" in answer


def test_a_malformed_chunk_after_the_answer_gets_no_other(
    settings: Settings, tiny: Checkpoint
) -> None:
    with bounded_service(settings, tiny, max_body_bytes=16) as url, connect(url) as connection:
        connection.sendall(CHUNKED + b"20\r\n" + b"a" * 32 + b"\r\n")
        assert connection.recv(2**16).startswith(b"HTTP/1.1 413 ")
        connection.sendall(b"x\r\n")
        assert receive_all(connection) == b""


@pytest.mark.parametrize(
    ("late", "after"),
    [
        (b"\r\n", b"408 "),
        (b"GET", b"408 "),
        (HEAD + b"\r\n", b"200 "),
        (b"\x16\x03", b"400 "),
        (CHUNKED + b"x\r\n", b"400 "),
    ],
    ids=["line", "start", "request", "no HTTP", "malformed chunk"],
)
def test_what_arrives_while_a_response_is_pending_does_not_cut_it_off(
    settings: Settings, tiny: Checkpoint, late: bytes, after: bytes
) -> None:
    limits = ConnectionLimits(connections=5, header_seconds=0.3, idle_seconds=60)
    servers: list[uvicorn.Server] = []

    @contextmanager
    def serve(app: FastAPI) -> Iterator[str]:
        config = uvicorn.Config(app, port=0, http=limits.protocol, log_config=None)
        servers.append(uvicorn.Server(config))
        with started(servers[0]) as url:
            yield url

    with slow_service(settings, tiny, serve) as (device, client, _):
        body = f'{{"document": "{DOCUMENT}", "steps": 1}}'.encode().ljust(100)
        with connect(str(client.base_url)) as connection:
            connection.sendall(POST + body)
            wait_until(lambda: bool(servers[0].server_state.tasks) and not limits.waiting)
            connection.sendall(late)
            time.sleep(1)  # more than a header may take
            device.permits.release(1)
            answer = b""
            while b"HTTP/1.1 " + after not in answer:
                part = connection.recv(2**16)
                assert part, answer
                answer += part
    assert answer.startswith(b"HTTP/1.1 201 ")


def test_only_the_own_idle_timeout_closes(settings: Settings, tiny: Checkpoint) -> None:
    limits = ConnectionLimits(connections=5, header_seconds=60, idle_seconds=2)
    config = uvicorn.Config(
        create_app(settings, models=Models([tiny])),
        port=0,
        http=limits.protocol,
        log_config=None,
        timeout_keep_alive=0,
    )
    with started(uvicorn.Server(config)) as url, connect(url) as connection:
        for _ in range(2):
            connection.sendall(HEAD + b"\r\n")
            assert connection.recv(2**16).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.2)
        assert receive_all(connection) == b""


@pytest.mark.parametrize("start", [b"", HEAD, POST + b"{", HEAD + b"\r\n"])
def test_waiting_connections_shut_nobody_out(
    settings: Settings, tiny: Checkpoint, start: bytes
) -> None:
    with bounded_service(settings, tiny, max_connections=8) as url, ExitStack() as held:
        connections = [held.enter_context(connect(url)) for _ in range(30)]
        for connection in connections:
            connection.sendall(start)
            assert is_alive(url)


def test_requests_at_work_are_not_given_up_for_others(settings: Settings, tiny: Checkpoint) -> None:
    limits = ConnectionLimits(connections=2, header_seconds=10, idle_seconds=10)

    @contextmanager
    def serve(app: FastAPI) -> Iterator[str]:
        config = uvicorn.Config(app, port=0, http=limits.protocol, log_config=None)
        with started(uvicorn.Server(config)) as url:
            yield url

    with slow_service(settings, tiny, serve) as (device, client, _), ExitStack() as held:
        url = str(client.base_url)
        body = f'{{"document": "{DOCUMENT}", "steps": 1}}'.encode().ljust(100)
        busy = [held.enter_context(connect(url)) for _ in range(2)]
        for connection in busy:
            connection.sendall(POST + body)
        wait_until(lambda: not limits.waiting)
        refused = httpx.post(f"{url}/write", json={"document": DOCUMENT})
        assert refused.status_code == 503
        assert refused.json()["type"] == "urn:gradmem:problem:connections"
        assert refused.json()["limit"] == 2
        assert is_alive(url)
        device.permits.release(2)
        for connection in busy:
            assert connection.recv(2**16).startswith(b"HTTP/1.1 201 ")


def test_a_client_that_takes_no_response_is_cut_off(settings: Settings, tiny: Checkpoint) -> None:
    limits = ConnectionLimits(connections=10, header_seconds=60, idle_seconds=60, send_seconds=0.5)
    app = create_app(settings, models=Models([tiny]))
    server = uvicorn.Server(uvicorn.Config(app, port=0, http=limits.protocol, log_config=None))
    with started(server) as url, connect(url) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = b"GET /docs/files/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
        connection.sendall(request * 20)
        wait_until(lambda: len(server.server_state.connections) == 1)
        wait_until(lambda: not server.server_state.connections)


def test_an_answered_request_may_end_within_a_while(settings: Settings, tiny: Checkpoint) -> None:
    with bounded_service(settings, tiny, max_body_bytes=1024) as url, connect(url) as connection:
        head = POST.replace(b"Content-Length: 100", b"Content-Length: 2000")
        connection.sendall(head)
        assert connection.recv(2**16).startswith(b"HTTP/1.1 413 ")
        connection.sendall(b"a" * 2000 + HEAD + b"\r\n")
        assert connection.recv(2**16).startswith(b"HTTP/1.1 200 ")


def test_connections_are_fewer_than_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert count_connections(10) == 10
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        assert count_connections(1000) == 128
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
