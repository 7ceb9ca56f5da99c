"""Calls that the client sends again, and those that it does not."""

import json
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress

import httpx
import pytest

from service.client import (
    Client,
    ClientError,
    Conflict,
    ConnectionFailed,
    NotFound,
    Overloaded,
    Unavailable,
)
from service.client.retries import JITTER, LONGEST_PAUSE_SECONDS
from tests.service.test_cli import Gradmem

MEMORY_ID = "0" * 32
PROBLEM = {"content-type": "application/problem+json"}
CALLS: dict[str, Callable[[Client], object]] = {
    "list": lambda client: client.models(),
    "read": lambda client: client.memory(MEMORY_ID).ask("?"),
    "stream": lambda client: client.memory(MEMORY_ID).ask_stream("?").result(),
    "write": lambda client: client.write("text"),
    "append": lambda client: client.memory(MEMORY_ID).append("text"),
    "delete": lambda client: client.memory(MEMORY_ID).delete(),
    "patch": lambda client: client.memory(MEMORY_ID).patch(name="new"),
    "cancel": lambda client: client.job("1").cancel(),
}
REPEATABLE = [name for name in CALLS if name not in ("patch", "cancel")]


class Server:
    """A server that answers with its replies in turn, the last one for ever, and counts requests.

    A reply is a response, or an error of the connection.
    """

    def __init__(self, *replies: httpx.Response | Exception) -> None:
        self.replies = list(replies)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return httpx.Response(reply.status_code, headers=reply.headers, content=reply.content)

    def client(self, max_retries: int = 2) -> Client:
        transport = httpx.MockTransport(self)
        return Client("http://gradmem", max_retries=max_retries, transport=transport)


def problem(status: int, **headers: str) -> httpx.Response:
    body = {"type": "urn:x", "title": "t", "status": status, "detail": "d"}
    return httpx.Response(status, json=body, headers=PROBLEM | headers)


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that the client would make."""
    pauses: list[float] = []
    monkeypatch.setattr("service.client.sessions.time.sleep", pauses.append)
    return pauses


def count_attempts(reply: httpx.Response | Exception, call: str, **options: int) -> int:
    server = Server(reply)
    with pytest.raises(ClientError):
        CALLS[call](server.client(**options))
    return len(server.requests)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "reply",
    [problem(429, **{"retry-after": "1"}), httpx.ConnectError("refused"), httpx.PoolTimeout("")],
    ids=repr,
)
def test_what_was_not_begun_is_tried_again(call: str, reply: httpx.Response | Exception) -> None:
    assert count_attempts(reply, call) == 3


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "reply",
    [problem(503), httpx.Response(502), httpx.ReadError("reset"), httpx.RemoteProtocolError("")],
    ids=repr,
)
def test_what_may_have_been_done_is_only_tried_again_where_that_does_no_harm(
    call: str, reply: httpx.Response | Exception
) -> None:
    assert count_attempts(reply, call) == (3 if call in REPEATABLE else 1)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "reply",
    [problem(404), problem(409), problem(422), problem(500), problem(504), httpx.ReadTimeout("")],
    ids=repr,
)
def test_what_would_fail_again_is_not_tried_again(
    call: str, reply: httpx.Response | Exception
) -> None:
    assert count_attempts(reply, call) == 1


@pytest.mark.parametrize("retries", [0, 1, 5])
def test_the_number_of_attempts_is_bounded(retries: int) -> None:
    assert count_attempts(problem(429), "write", max_retries=retries) == 1 + retries


def test_retry_after_is_respected(pauses: list[float]) -> None:
    count_attempts(problem(429, **{"retry-after": "7"}), "write")
    assert all(7 <= pause <= 7 * (1 + JITTER) for pause in pauses)
    assert pauses[0] != pauses[1]


def test_pauses_grow_without_retry_after(pauses: list[float]) -> None:
    count_attempts(httpx.ConnectError("refused"), "read", max_retries=8)
    bounds = [0.5, 1, 2, 4, 8, 16, 32, LONGEST_PAUSE_SECONDS]
    assert len(pauses) == len(bounds)
    assert all(
        bound <= pause <= bound * (1 + JITTER) for pause, bound in zip(pauses, bounds, strict=True)
    )


def test_a_wait_that_is_too_long_is_left_to_the_caller(pauses: list[float]) -> None:
    with pytest.raises(Overloaded) as caught:
        Server(problem(429, **{"retry-after": "3600"})).client().models()
    assert (caught.value.retry_after, pauses) == (3600, [])


def test_the_answer_to_a_second_attempt_is_returned() -> None:
    server = Server(problem(503), httpx.Response(200, json={"models": []}))
    assert server.client().models() == []


def test_attempts_at_a_write_have_one_key_and_writes_have_different_ones() -> None:
    server = Server(httpx.ReadError("reset"))
    client = server.client(max_retries=1)
    for _ in range(2):
        with pytest.raises(ConnectionFailed):
            client.write("text")
    keys = [request.headers["idempotency-key"] for request in server.requests]
    assert keys[0] == keys[1] != keys[2] == keys[3]


def test_a_key_of_the_caller_is_a_header_and_not_in_the_body() -> None:
    server = Server(problem(422))
    with pytest.raises(ClientError):
        server.client().write("text", idempotency_key="mine", model=None)
    (request,) = server.requests
    assert request.headers["idempotency-key"] == "mine"
    assert json.loads(request.content) == {"document": "text"}


@pytest.mark.parametrize("key", ["", "a b", "ü", "a" * 256])
def test_a_key_that_no_header_can_hold_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="1 to 255 visible ASCII"):
        Server(problem(500)).client().write("text", idempotency_key=key)


def test_a_write_under_way_elsewhere_is_awaited(pauses: list[float]) -> None:
    with pytest.raises(Conflict):
        Server(problem(409, **{"retry-after": "2"})).client().write("text")
    assert len(pauses) == 2


def test_a_memory_deleted_by_an_attempt_without_a_response_is_deleted() -> None:
    lost = Server(httpx.ReadError("reset"), problem(404))
    lost.client().memory(MEMORY_ID).delete()
    for first in (problem(404), problem(429), httpx.ConnectError("refused")):
        seen = Server(first, problem(404))
        with pytest.raises(NotFound):
            seen.client().memory(MEMORY_ID).delete()


def test_readiness_is_asked_for_once() -> None:
    server = Server(problem(503))
    assert server.client().ready() is False
    assert len(server.requests) == 1


def test_a_stream_that_has_begun_is_not_begun_again() -> None:
    failure = 'event: error\ndata: {"type": "t", "title": "t", "status": 503, "detail": "d"}\n\n'
    server = Server(httpx.Response(200, text=failure))
    with pytest.raises(Unavailable):
        server.client().memory(MEMORY_ID).ask_stream("?").result()
    assert len(server.requests) == 1


@pytest.mark.parametrize("body", ["event: result\ndata: {}\n\n", "event: token\ndata: x\n\n"])
def test_a_malformed_event_is_unexpected(body: str) -> None:
    server = Server(httpx.Response(200, text=body))
    with pytest.raises(ClientError, match="check that the base URL"):
        server.client().memory(MEMORY_ID).ask_stream("?").result()


def test_events_arrive_whole_however_their_bytes_are_cut() -> None:
    token = 'event: token\ndata: {"query": 0, "text": "a\u2028ü\x85b", "probability": 0.5}\n\n'
    content = (": comment\n\nevent: later\ndata: {}\n\n" + token * 2).encode()
    for size in (1, 2, 7, len(content)):
        parts = [content[start : start + size] for start in range(0, len(content), size)]
        transport = httpx.MockTransport(lambda _, parts=parts: httpx.Response(200, content=parts))
        client = Client("http://gradmem", transport=transport)
        events = list(client.memory(MEMORY_ID).ask_stream("?"))
        assert [event.text for event in events] == ["a\u2028ü\x85b"] * 2


def forward(source: socket.socket, target: socket.socket) -> None:
    """Send on what arrives until one side closes."""
    with suppress(OSError):
        while content := source.recv(2**16):
            target.sendall(content)
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def losing_url(base_url: str) -> Iterator[str]:
    """Base URL of the service behind a proxy that swallows its first response."""
    target = httpx.URL(base_url)

    def relay() -> None:
        for swallow in (True, False):
            ours, _ = listener.accept()
            theirs = socket.create_connection((target.host, target.port or 80))
            with ours, theirs:
                requests = threading.Thread(target=forward, args=(ours, theirs))
                requests.start()
                if swallow:
                    theirs.recv(2**16)  # by now the service has written the memory
                    ours.shutdown(socket.SHUT_RDWR)
                else:
                    forward(theirs, ours)
                requests.join()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=relay)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(timeout=30)


def test_memories_deleted_by_an_attempt_without_a_response_are_deleted(
    losing_url: str, base_url: str
) -> None:
    with Client(base_url) as client:
        ids = [client.write("!aB:7x!|").memory_id for _ in range(2)]
    assert Gradmem(losing_url).output("rm", *ids) == ""


def test_a_write_whose_response_was_lost_is_written_once(losing_url: str, base_url: str) -> None:
    name = uuid.uuid4().hex
    with Client(losing_url) as client:
        memory = client.write("!aB:7x!|", name=name)
    with Client(base_url) as client:
        assert [each.memory_id for each in client.memories(name=name)] == [memory.memory_id]
