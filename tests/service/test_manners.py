"""Manners of HTTP that clients, browsers and proxies rely on, over a real uvicorn."""

import gzip
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from gradmem_core.checkpoints.checkpoint import Checkpoint
from service.app import create_app
from service.models import Models
from service.settings import Settings
from service.telemetry import Telemetry
from tests.service.conftest import Serving
from tests.service.test_streams import DOCUMENT, EVENTS

UNKNOWN = "/memories/" + "0" * 32
PAGE = "https://app.example"


@pytest.fixture
def http(base_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=base_url, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def served(
    tiny: Checkpoint, serving: Serving, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A service for two hosts and one foreign web page."""
    settings = Settings(
        store_url=f"sqlite:///{tmp_path_factory.mktemp('store')}/memories.db",
        threads=1,
        allowed_hosts=["memory.example", "*.inside.example"],
        allowed_origins=[PAGE],
    )
    app = create_app(settings, models=Models([tiny]))
    with serving(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        client.headers["host"] = "memory.example"
        yield client


def problem_type(response: httpx.Response) -> str:
    assert response.headers["content-type"] == "application/problem+json"
    name: str = response.json()["type"]
    return name.removeprefix("urn:gradmem:problem:")


def test_streams_are_neither_stored_nor_held_back(http: httpx.Client) -> None:
    response = http.post("/write", json={"document": DOCUMENT}, headers=EVENTS)
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-accel-buffering"] == "no"


@pytest.mark.parametrize("path", ["/livez", "/models", "/metrics", "/docs", "/openapi.json"])
def test_head_is_get_without_the_body(http: httpx.Client, path: str) -> None:
    head, get = http.head(path), http.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    if path != "/metrics":  # which has counted one more request
        assert head.headers["content-length"] == get.headers["content-length"]


def test_head_of_a_memory_that_is_not_there_is_404(http: httpx.Client) -> None:
    assert http.head(UNKNOWN).status_code == 404
    metrics = http.get("/metrics").text
    assert 'requests_total{method="HEAD",route="/memories/{memory_id}",status="404"}' in metrics


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", UNKNOWN, "DELETE, GET, PATCH, HEAD"),
        ("GET", "/write", "POST"),
        ("HEAD", "/read", "POST"),
        ("DELETE", "/livez", "GET, HEAD"),
        ("TRACE", UNKNOWN + "/pages/0123456789abcdef", "DELETE, PUT"),
    ],
)
def test_405_names_all_methods_of_the_path(
    http: httpx.Client, method: str, path: str, allowed: str
) -> None:
    response = http.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({}, "media-type"),
        ({"content-type": "text/plain"}, "media-type"),
        ({"content-type": "application/x-www-form-urlencoded"}, "media-type"),
        ({"content-type": "application/json", "content-encoding": "gzip"}, "content-encoding"),
    ],
)
def test_only_plain_json_is_read(http: httpx.Client, headers: dict[str, str], name: str) -> None:
    content = json.dumps({"document": DOCUMENT}).encode()
    if "content-encoding" in headers:
        content = gzip.compress(content)
    response = http.post("/write", content=content, headers=headers)
    assert response.status_code == 415
    assert problem_type(response) == name


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", "application/ld+json"]
)
def test_json_has_many_names(http: httpx.Client, content_type: str) -> None:
    content = json.dumps({"document": DOCUMENT})
    response = http.post("/write", content=content, headers={"content-type": content_type})
    assert response.status_code == 201


def responses_of(document: dict[str, Any]) -> Iterator[tuple[str, set[int]]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield f"{method} {path}", {int(status) for status in operation["responses"]}


def test_openapi_names_every_refusal(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    for name, statuses in responses_of(document):
        assert {400, 421, 431} <= statuses, name
        if name in ("post /write", "post /read", "post /v1/chat/completions"):
            assert {408, 413, 415, 422, 429, 503, 504} <= statuses


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/write", {"steps": 1.0, "ttl_seconds": 60.0}),
        ("/write", {"steps": 1.5}),
        ("/write", {"append_to": "0" * 32}),
        ("/write", {"append_to": "0" * 32, "ttl_seconds": None, "metadata": {}}),
        ("/write", {"append_to": "0" * 32, "ttl_seconds": 60}),
        ("/write", {"append_to": "0" * 32, "metadata": {"a": "b"}}),
        ("/read", {}),
        ("/read", {"query": "?!a:", "seed": 1.0, "max_new_tokens": 1.0}),
        ("/read", {"query": None, "queries": ["?!a:"]}),
        ("/read", {"query": "?!a:", "queries": ["?!a:"]}),
        ("/read", {"query": None, "queries": None}),
    ],
)
def test_openapi_accepts_what_the_service_accepts(
    http: httpx.Client, path: str, fields: dict[str, object]
) -> None:
    operation = http.get("/openapi.json").json()["paths"][path]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    body = {**({"document": DOCUMENT} if path == "/write" else {"memory_id": "0" * 32}), **fields}
    accepted = http.post(path, json=body).status_code in (201, 404)
    assert Draft202012Validator(schema).is_valid(body) == accepted


@pytest.mark.parametrize(
    "host", ["memory.example", "memory.example:8080", "MEMORY.example", "a.b.inside.example"]
)
def test_allowed_hosts_are_answered(served: httpx.Client, host: str) -> None:
    assert served.get("/livez", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "inside.example", "memory.example.evil", "[", ""]
)
def test_other_hosts_are_refused(served: httpx.Client, host: str) -> None:
    response = served.get("/livez", headers={"host": host})
    assert response.status_code == 421
    assert problem_type(response) == "host"


def test_a_service_on_a_loopback_address_answers_for_this_machine_alone(
    http: httpx.Client, settings: Settings
) -> None:
    for host in ("localhost:8080", "127.0.0.1", "[::1]:8080"):
        assert http.get("/livez", headers={"host": host}).status_code == 200
    assert http.get("/livez", headers={"host": "rebound.example"}).status_code == 421
    assert settings.model_copy(update={"host": "0.0.0.0"}).hosts_to_answer_for == []
    assert settings.model_copy(update={"allowed_hosts": ["*"]}).hosts_to_answer_for == []


def test_pages_of_an_allowed_origin_may_use_the_service(served: httpx.Client) -> None:
    asked = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type",
    }
    preflight = served.options("/write", headers={"origin": PAGE, **asked})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == PAGE
    refused = served.get(UNKNOWN, headers={"origin": PAGE})
    assert refused.status_code == 404
    assert refused.headers["access-control-allow-origin"] == PAGE
    foreign = served.get("/livez", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in foreign.headers


def test_without_the_setting_no_page_of_another_origin_may(http: httpx.Client) -> None:
    response = http.get("/livez", headers={"origin": PAGE})
    assert "access-control-allow-origin" not in response.headers


def test_the_documentation_asks_no_other_server(http: httpx.Client) -> None:
    page = http.get("/docs")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    files = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(files) == 3
    for file in files:
        assert file.startswith("/")
        assert http.get(file).status_code == 200
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert http.get("/redoc").status_code == 404


def written_tokens(http: httpx.Client) -> list[str]:
    """Return what the metrics count of tokens so far."""
    lines = http.get("/metrics").text.splitlines()
    names = ("tokens_total{", 'step_seconds_count{kind="read"}', 'batch_size_count{kind="read"}')
    return [line for line in lines if any(name in line for name in names) and line[-3:] != "0.0"]


def test_metrics_do_not_give_away_a_length(
    settings: Settings, tiny: Checkpoint, serving: Serving
) -> None:
    app = create_app(settings, models=Models([tiny]))
    with serving(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        for length in (9, 17, 33):
            memory = client.post("/write", json={"document": "!" * length}).json()["memory_id"]
            body = {"memory_id": memory, "query": "?!a", "max_new_tokens": length % 8}
            assert client.post("/read", json=body).status_code == 200
            assert written_tokens(client) == []


def test_metrics_count_all_tokens_in_the_end() -> None:
    telemetry = Telemetry()
    for _ in range(100):
        telemetry.observe_gradient_step([60, 40], 0.1)
        telemetry.observe_token(7, 0.01)
    text = telemetry.exposition().decode()
    assert 'gradmem_tokens_total{kind="write"} 9216.0' in text
    assert 'gradmem_batch_size_count{kind="read"} 1.0' in text
