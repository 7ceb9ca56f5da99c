"""The client: against the running service, and its translation of what a network can do to it."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
import httpx
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from gradmem_core.checkpoint import Checkpoint, load_checkpoint
from gradmem_core.errors import GradMemError
from service.app import create_app
from service.client import (
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
from service.models import Models
from service.schemas import MAX_QUERIES, MemoryInfo
from service.settings import Settings
from tests.service.conftest import Serving, save_tiny

DOCUMENT = "!aB:7x!!kk:Q3!!0z:mN!|"
QUERIES = ["?!aB:", "?!kk:", "?!0z:"]
UNKNOWN_ID = "0" * 32
TOO_LONG = 2**70
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


class Blocking:
    """An AsyncClient whose methods are called as those of a Client."""

    def __init__(self, client: AsyncClient, portal: BlockingPortal) -> None:
        self._client = client
        self._portal = portal

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *args, **kwargs: self._portal.call(partial(method, *args, **kwargs))


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest, base_url: str) -> Iterator[Client]:
    if request.param == "sync":
        with Client(base_url, timeout_seconds=30) as client:
            yield client
    else:
        with (
            start_blocking_portal() as portal,
            portal.wrap_async_context_manager(AsyncClient(base_url, timeout_seconds=30)) as opened,
        ):
            yield cast("Client", Blocking(opened, portal))


@pytest.fixture
def memory(client: Client) -> MemoryInfo:
    return client.write(DOCUMENT)


@pytest.fixture
def free_port() -> int:
    """A port of loopback where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture
def silent_url() -> Iterator[str]:
    """Somebody listens there and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def answered_by(handler: Handler, base_url: str = "http://gradmem") -> Client:
    return Client(base_url, transport=httpx.MockTransport(handler))


def answering(status: int, **response: Any) -> Handler:
    return lambda _: httpx.Response(status, **response)


# Against the running service.


def test_write_returns_what_the_service_says_of_the_memory(client: Client) -> None:
    memory = client.write(
        DOCUMENT, model="tiny", steps=3, ttl_seconds=60, metadata={"ключ": "🎉\x00\n"}
    )
    assert (memory.model, memory.tokens, memory.write_steps) == ("tiny", len(DOCUMENT), 3)
    assert memory.metadata == {"ключ": "🎉\x00\n"}
    assert memory.expires_at is not None
    assert (memory.expires_at - memory.created_at).total_seconds() == pytest.approx(60)
    assert client.show(memory.memory_id) == memory


def test_none_stands_for_the_defaults_of_the_service(client: Client, memory: MemoryInfo) -> None:
    same = client.write(DOCUMENT, model=None, steps=None, ttl_seconds=None, metadata=None)
    assert (same.write_steps, same.expires_at, same.metadata) == (memory.write_steps, None, {})
    plain = client.read(memory.memory_id, QUERIES[0])
    assert plain == client.read(memory.memory_id, QUERIES[0], max_new_tokens=None, temperature=None)


def test_answers_come_in_the_order_of_the_queries(client: Client, memory: MemoryInfo) -> None:
    answers = client.read_many(memory.memory_id, QUERIES)
    assert [answer.query for answer in answers] == QUERIES
    for query, answer in zip(QUERIES, answers, strict=True):
        alone = client.read(memory.memory_id, query)
        assert (alone.query, alone.answer) == (query, answer.answer)
        assert alone.confidence == pytest.approx(answer.confidence, rel=1e-4)


def test_sampling_reaches_the_service(client: Client, memory: MemoryInfo) -> None:
    def drawn(seed: int) -> str:
        return client.read(memory.memory_id, QUERIES[0], temperature=5, top_p=0.9, seed=seed).answer

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(8)}) > 1
    assert client.read(memory.memory_id, QUERIES[0], max_new_tokens=1).tokens <= 1


def test_a_deleted_memory_is_gone(client: Client, memory: MemoryInfo) -> None:
    client.delete(memory.memory_id)
    gone: list[Callable[[str], object]] = [
        client.show,
        client.delete,
        lambda memory_id: client.read(memory_id, QUERIES[0]),
    ]
    for call in gone:
        with pytest.raises(NotFound) as caught:
            call(memory.memory_id)
        assert caught.value.status == 404
        assert caught.value.problem.type == "urn:gradmem:problem:memory-not-found"


def test_models_lists_the_served_checkpoints(client: Client, tiny: Checkpoint) -> None:
    [model] = client.models()
    assert (model.name, model.fingerprint) == ("tiny", tiny.fingerprint)
    assert (model.memory_tokens, model.width, model.max_context_tokens) == (4, 32, 64)


def test_a_running_service_is_ready(client: Client) -> None:
    assert client.ready() is True


@pytest.mark.parametrize("name", ["nobody's", "\udc80"], ids=ascii)
def test_an_unknown_model_is_not_found(client: Client, name: str) -> None:
    with pytest.raises(NotFound, match="tiny") as caught:
        client.write(DOCUMENT, model=name)
    assert caught.value.problem.type == "urn:gradmem:problem:model-not-found"


def test_a_document_too_long_is_refused_with_the_limit(client: Client) -> None:
    with pytest.raises(InvalidRequest, match=r"65.*64") as caught:
        client.write("a" * 65)
    assert (caught.value.status, caught.value.problem.limit) == (413, 64)


def test_unknown_characters_are_refused_with_their_places(client: Client) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.write("!aB:é\n!|")
    assert (caught.value.status, caught.value.problem.positions) == (422, [4, 5])


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"steps": TOO_LONG},
        {"ttl_seconds": -1},
        {"metadata": {"a": 1}},
        {"no_such_option": True},
    ],
    ids=str,
)
def test_a_wrong_argument_of_write_is_refused(client: Client, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.write(DOCUMENT, **options)
    assert caught.value.status == 422


@pytest.mark.parametrize("document", ["", "\udc80", 5], ids=ascii)
def test_a_document_that_is_no_text_is_refused(client: Client, document: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.write(document)
    assert caught.value.status == 422


@pytest.mark.parametrize(
    "options",
    [{"temperature": float("nan")}, {"temperature": -1}, {"top_p": 0}, {"seed": TOO_LONG}],
    ids=str,
)
def test_a_wrong_argument_of_read_is_refused(
    client: Client, memory: MemoryInfo, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.read(memory.memory_id, QUERIES[0], **options)
    assert caught.value.problem.errors


@pytest.mark.parametrize(
    "queries",
    [[], "?!aB:", ["?!aB:"] * (MAX_QUERIES + 1), [""]],
    ids=["none", "a text", "too many", "empty"],
)
def test_wrong_queries_are_refused(client: Client, memory: MemoryInfo, queries: Any) -> None:
    with pytest.raises(InvalidRequest):
        client.read_many(memory.memory_id, queries)


@pytest.mark.parametrize(
    "memory_id",
    ["", ".", "..", "../models", "a/b", "%2e%2e", "?x", "#", "\x00", "é", "\udc80", "a" * 5000],
    ids=lambda value: ascii(value)[:20],
)
def test_no_memory_id_leads_to_another_route(client: Client, memory_id: str) -> None:
    for call in (client.show, client.delete):
        with pytest.raises(NotFound):
            call(memory_id)
    with pytest.raises((NotFound, InvalidRequest)):
        client.read(memory_id, QUERIES[0])


def test_a_memory_of_another_checkpoint_is_a_conflict(
    serving: Serving, settings: Settings, tiny: Checkpoint, tmp_path: Path
) -> None:
    other = load_checkpoint(save_tiny(tmp_path / "tiny", seed=2))
    with (
        serving(create_app(settings, models=Models([tiny]))) as base_url,
        Client(base_url) as client,
    ):
        memory = client.write(DOCUMENT)
    with (
        serving(create_app(settings, models=Models([other]))) as base_url,
        Client(base_url) as client,
        pytest.raises(Conflict) as caught,
    ):
        client.read(memory.memory_id, QUERIES[0])
    assert caught.value.status == 409
    assert tiny.fingerprint in caught.value.problem.detail


@pytest.mark.anyio
async def test_one_async_client_carries_many_calls_at_once(base_url: str) -> None:
    answers: dict[str, str] = {}
    async with AsyncClient(base_url) as client:
        memory = await client.write(DOCUMENT)

        async def ask(query: str) -> None:
            answers[query] = (await client.read(memory.memory_id, query)).answer

        async with anyio.create_task_group() as group:
            for query in QUERIES:
                group.start_soon(ask, query)
        together = await client.read_many(memory.memory_id, QUERIES)
    assert answers == {answer.query: answer.answer for answer in together}


# When nobody, or somebody else, answers.


def test_a_port_where_nobody_listens_is_a_failed_connection(free_port: int) -> None:
    url = f"http://127.0.0.1:{free_port}"
    with Client(url) as client:
        assert client.ready() is False
        with pytest.raises(ConnectionFailed, match=f"{url}: start it with `gradmem serve`"):
            client.models()


@pytest.mark.parametrize("url", ["", "nonsense", "ftp://x", "http://h:0x", "http://a..b"])
def test_a_url_of_no_service_is_a_failed_connection(url: str) -> None:
    with pytest.raises(ConnectionFailed), Client(url) as client:
        client.models()


def raised(kind: type[Exception], **attributes: Any) -> Exception:
    """An error of httpx, whatever its class wants to be made of."""
    error = kind.__new__(kind)
    Exception.__init__(error, "secret")
    vars(error).update(attributes)
    return error


@pytest.mark.parametrize("kind", HTTPX_ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_of_httpx_has_a_counterpart(kind: type[Exception]) -> None:
    def handler(request: httpx.Request) -> httpx.Response:  # noqa: ARG001
        raise raised(kind)

    client = answered_by(handler, "http://user:password@gradmem:81")
    with pytest.raises((ConnectionFailed, UnexpectedResponse)) as caught:
        client.models()
    assert isinstance(caught.value.__cause__, kind)
    assert "http://gradmem:81" in str(caught.value)
    assert "password" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("kind", [httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout])
def test_a_late_answer_is_told_from_an_unreachable_service(kind: type[Exception]) -> None:
    def handler(request: httpx.Request) -> httpx.Response:  # noqa: ARG001
        raise raised(kind)

    with pytest.raises(ConnectionFailed, match="longer timeout"):
        answered_by(handler).write(DOCUMENT)


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
        answered_by(lambda _: reply).models()
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.problem.type) == (status, "urn:x")
    assert caught.value.retry_after == 7


@pytest.mark.parametrize("value", ["", "-1", "soon", "Wed, 21 Oct 2026 07:28:00 GMT", "9" * 99])
def test_a_retry_after_that_is_no_number_of_seconds_is_left_out(value: str) -> None:
    body = {"type": "urn:x", "title": "t", "status": 429, "detail": "wait"}
    reply = httpx.Response(429, json=body, headers=PROBLEM | {"retry-after": value})
    with pytest.raises(Overloaded) as caught:
        answered_by(lambda _: reply).models()
    assert caught.value.retry_after is None


@pytest.mark.parametrize(
    "handler",
    [
        answering(200, text="<html>"),
        answering(200, json={"models": [{}]}),
        answering(200, content=b"\xff"),
        answering(204),
        answering(304),
        answering(302, headers={"location": "/elsewhere"}),
        answering(404, text="nothing here"),
        answering(404, json={"detail": "Not Found"}),
        answering(502, text="<html>bad gateway"),
        answering(500, json={"title": "no detail"}, headers=PROBLEM),
        answering(500, content=b"\xff", headers=PROBLEM),
    ],
)
def test_an_answer_of_somebody_else_is_unexpected(handler: Handler) -> None:
    with pytest.raises(UnexpectedResponse, match=r"http://gradmem/ .*base URL"):
        answered_by(handler).models()


def test_fewer_answers_than_queries_are_unexpected() -> None:
    with pytest.raises(UnexpectedResponse):
        answered_by(answering(200, json={"answers": []})).read(UNKNOWN_ID, "?")


@pytest.mark.parametrize("status", [404, 429, 500, 503])
def test_a_service_that_refuses_is_not_ready(status: int) -> None:
    assert answered_by(answering(status)).ready() is False


def test_a_base_url_may_have_a_path() -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path.decode())
        return httpx.Response(204)

    answered_by(handler, "http://gradmem/below").delete("../a b")
    assert seen == ["/below/memories/%2E%2E%2Fa%20b"]


def test_only_what_was_given_is_sent() -> None:
    sent: list[object] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return httpx.Response(500)

    client = answered_by(handler)
    with pytest.raises(ClientError):
        client.write("d", steps=None, ttl_seconds=5)
    with pytest.raises(ClientError):
        client.read("i", "q", temperature=0.5)
    assert sent == [
        {"document": "d", "ttl_seconds": 5},
        {"memory_id": "i", "queries": ["q"], "temperature": 0.5},
    ]


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    base_url: str, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port}")
    with Client(base_url) as client:
        assert client.models()


def test_the_tree_stands_apart_from_the_core() -> None:
    assert not issubclass(ClientError, GradMemError)


def test_the_client_needs_no_torch() -> None:
    code = "import sys, service.client, service.cli; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
