"""The client without a service, and with another server at its URL."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from gradmem_core.errors import GradMemError
from service.client import (
    DEFAULT_URL,
    AsyncClient,
    Client,
    ClientError,
    Conflict,
    ConnectionFailed,
    InvalidRequest,
    NotFound,
    Overloaded,
    ProblemError,
    Unavailable,
    UnexpectedResponse,
)

DOCUMENT = "!aB:7x!!kk:Q3!!0z:mN!|"
UNKNOWN_ID = "0" * 32
PROBLEM = {"content-type": "application/problem+json"}
HTTPX_ERRORS = sorted(
    (
        value
        for value in map(vars(httpx).get, httpx.__all__)
        if isinstance(value, type) and issubclass(value, Exception)
    ),
    key=lambda error: error.__name__,
)
Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def free_port() -> int:
    """A free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture
def silent_url() -> Iterator[str]:
    """Base URL of a server that never responds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def client_of(handler: Handler, base_url: str = "http://gradmem") -> Client:
    return Client(base_url, transport=httpx.MockTransport(handler), max_retries=0)


def respond(status: int, **response: Any) -> Handler:
    return lambda _: httpx.Response(status, **response)


def test_a_free_port_is_a_failed_connection(free_port: int) -> None:
    url = f"http://127.0.0.1:{free_port}"
    with Client(url, max_retries=0) as client:
        assert client.ready() is False
        with pytest.raises(ConnectionFailed, match=f"{url}: start it with `gradmem serve`"):
            client.models()


@pytest.mark.parametrize("url", ["", "nonsense", "ftp://x", "http://h:0x", "http://a..b"])
def test_an_invalid_url_is_a_failed_connection(url: str) -> None:
    with pytest.raises(ConnectionFailed), Client(url, max_retries=0) as client:
        client.models()


def make_error(kind: type[Exception], **attributes: Any) -> Exception:
    """Return an error of httpx, whatever arguments its class takes."""
    error = kind.__new__(kind)
    Exception.__init__(error, "secret")
    vars(error).update(attributes)
    return error


@pytest.mark.parametrize("kind", HTTPX_ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_of_httpx_has_a_counterpart(kind: type[Exception]) -> None:
    def handler(_request: httpx.Request) -> httpx.Response:
        raise make_error(kind)

    client = client_of(handler, "http://user:password@gradmem:81")
    with pytest.raises((ConnectionFailed, UnexpectedResponse)) as caught:
        client.models()
    assert isinstance(caught.value.__cause__, kind)
    assert "http://gradmem:81" in str(caught.value)
    assert "password" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("kind", [httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout])
def test_a_timeout_is_distinguished_from_an_unreachable_service(kind: type[Exception]) -> None:
    def handler(_request: httpx.Request) -> httpx.Response:
        raise make_error(kind)

    with pytest.raises(ConnectionFailed, match="longer timeout"):
        client_of(handler).write(DOCUMENT)


def test_a_timeout_over_a_real_socket(silent_url: str) -> None:
    with (
        Client(silent_url, timeout_seconds=0.1) as client,
        pytest.raises(ConnectionFailed, match="in time"),
    ):
        client.models()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (404, NotFound),
        (409, Conflict),
        (413, InvalidRequest),
        (422, InvalidRequest),
        (429, Overloaded),
        (500, Unavailable),
        (503, Unavailable),
        (507, Unavailable),
    ],
)
def test_a_problem_becomes_the_error_of_its_status(status: int, kind: type[ProblemError]) -> None:
    body = {"type": "urn:x", "title": "t", "status": status, "detail": "do this", "later": "field"}
    reply = httpx.Response(status, json=body, headers=PROBLEM | {"retry-after": "7"})
    with pytest.raises(ProblemError, match="do this") as caught:
        client_of(lambda _: reply).models()
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.problem.type) == (status, "urn:x")
    assert caught.value.retry_after == 7


@pytest.mark.parametrize("value", ["", "-1", "soon", "Wed, 21 Oct 2026 07:28:00 GMT", "9" * 99])
def test_a_retry_after_that_is_not_a_number_of_seconds_is_ignored(value: str) -> None:
    body = {"type": "urn:x", "title": "t", "status": 429, "detail": "wait"}
    reply = httpx.Response(429, json=body, headers=PROBLEM | {"retry-after": value})
    with pytest.raises(Overloaded) as caught:
        client_of(lambda _: reply).models()
    assert caught.value.retry_after is None


@pytest.mark.parametrize(
    "handler",
    [
        respond(200, text="<html>"),
        respond(200, json={"models": [{}]}),
        respond(200, content=b"\xff"),
        respond(204),
        respond(304),
        respond(302, headers={"location": "/elsewhere"}),
        respond(404, text="nothing here"),
        respond(404, json={"detail": "Not Found"}),
        respond(502, text="<html>bad gateway"),
        respond(500, json={"title": "no detail"}, headers=PROBLEM),
        respond(500, content=b"\xff", headers=PROBLEM),
    ],
)
def test_a_response_of_another_server_is_unexpected(handler: Handler) -> None:
    with pytest.raises(UnexpectedResponse, match=r"http://gradmem/ .*base URL"):
        client_of(handler).models()


def test_fewer_answers_than_queries_are_unexpected() -> None:
    with pytest.raises(UnexpectedResponse):
        client_of(respond(200, json={"answers": []})).memory(UNKNOWN_ID).ask("?")


@pytest.mark.parametrize("status", [404, 429, 500, 503])
def test_a_service_that_refuses_is_not_ready(status: int) -> None:
    assert client_of(respond(status)).ready() is False


def test_a_base_url_may_have_a_path() -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path.decode())
        return httpx.Response(204)

    client_of(handler, "http://gradmem/below").memory("../a b").delete()
    assert seen == ["/below/memories/%2E%2E%2Fa%20b"]


def test_only_given_options_are_sent() -> None:
    sent: list[object] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return httpx.Response(500)

    client = client_of(handler)
    with pytest.raises(ClientError):
        client.write("d", steps=None, ttl_seconds=5)
    with pytest.raises(ClientError):
        client.memory("i").ask("q", temperature=0.5)
    assert sent == [
        {"document": "d", "ttl_seconds": 5},
        {"memory_id": "i", "queries": ["q"], "temperature": 0.5},
    ]


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.write(b"text"),
        lambda client: client.write("text", metadata={"a": b"b"}),
        lambda client: client.memory(UNKNOWN_ID).ask(b"query"),
    ],
)
def test_what_json_does_not_have_is_refused_by_type(call: Callable[[Client], object]) -> None:
    with pytest.raises(TypeError, match="bytes cannot be sent as JSON; texts must be str"):
        call(client_of(respond(500)))


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_the_base_url_comes_from_the_environment(
    kind: type[Client] | type[AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRADMEM_URL", raising=False)
    assert kind().base_url == DEFAULT_URL
    monkeypatch.setenv("GRADMEM_URL", "http://gradmem:9")
    assert kind().base_url == "http://gradmem:9"
    assert kind("http://other").base_url == "http://other"


def test_a_proxy_of_the_environment_is_not_used_for_this_machine(
    base_url: str, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port}")
    with Client(base_url) as client:
        assert client.models()


def test_client_errors_are_not_errors_of_the_core() -> None:
    assert not issubclass(ClientError, GradMemError)


def test_the_client_does_not_import_torch() -> None:
    code = "import sys, service.client, service.cli; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
