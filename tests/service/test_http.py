"""The HTTP API over a real uvicorn."""

import json
import logging
import queue
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from benchmarks.faults.redis_server import RedisServer
from gradmem_core.blob import quantize
from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from gradmem_core.reading.answers import ReadingRules
from gradmem_core.reading.generation import generate
from gradmem_core.reading.sampling import Sampling
from gradmem_core.tokenizer import Tokenizer
from gradmem_core.writing.descent import write as core_write
from service.app import create_app
from service.engine import AdmissionLimits, BatchLimits, TorchDevice
from service.memories import Memories
from service.models import Models
from service.settings import Settings
from tests.service.conftest import Serving, await_readiness, save_tiny
from tests.service.engines import engine_on

DOCUMENT = "!aB:7x!!kk:Q3!!0z:mN!|"
QUERIES = ["?!aB:", "?!kk:", "?!0z:"]
UNKNOWN_ID = "0" * 32
SECRET = "sEcReT"


@pytest.fixture
def http(base_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=base_url, timeout=30) as client:
        yield client


def write(http: httpx.Client, **fields: object) -> dict[str, Any]:
    response = http.post("/write", json={"document": DOCUMENT, **fields})
    assert response.status_code == 201, response.text
    result: dict[str, Any] = response.json()
    return result


def problem(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["type"] == f"urn:gradmem:problem:{slug}"
    assert body["status"] == status
    return body


def test_write_describes_the_memory(http: httpx.Client, tiny: Checkpoint) -> None:
    result = write(http, steps=3, ttl_seconds=60, metadata={"from": "a test"})
    assert result["model"] == "tiny"
    assert result["fingerprint"] == tiny.fingerprint
    assert result["tokens"] == len(DOCUMENT)
    assert result["write_steps"] == 3
    assert len(result["losses"]) == 4
    assert 0 <= result["write_accuracy"] <= 1
    assert result["dtype"] == "int8"
    assert result["bytes"] > 4 * 32
    assert result["metadata"] == {"from": "a test"}
    lifetime = datetime.fromisoformat(result["expires_at"]) - datetime.fromisoformat(
        result["created_at"]
    )
    assert lifetime == timedelta(seconds=60)
    remarks: dict[str, object] = {"duplicate_keys": [], "skipped_lines": []}
    assert http.get(f"/memories/{result['memory_id']}").json() | remarks == result


def test_answers_equal_those_of_the_core(http: httpx.Client, tiny: Checkpoint) -> None:
    ids = torch.tensor([tiny.tokenizer.encode(DOCUMENT)])
    memory = core_write(tiny.model, ids, torch.tensor([ids.shape[1]]), 2, create_graph=False).memory
    expected = generate(
        tiny.model,
        quantize(memory, "int8"),
        [tiny.tokenizer.encode(query) for query in QUERIES],
        [0] * 3,
        [Sampling(8)] * 3,
        rules=ReadingRules.from_checkpoint(tiny),
    )
    memory_id = write(http)["memory_id"]
    response = http.post("/read", json={"memory_id": memory_id, "queries": QUERIES})
    answers = response.json()["answers"]
    assert [a["query"] for a in answers] == QUERIES
    assert [a["answer"] for a in answers] == [tiny.tokenizer.decode(e.tokens) for e in expected]
    assert [a["tokens"] for a in answers] == [len(e.tokens) for e in expected]
    assert [a["finish_reason"] for a in answers] == [e.finish_reason for e in expected]
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer["confidence"] == pytest.approx(wanted.confidence, rel=1e-4)


def test_a_single_query_is_answered_like_one_of_several(http: httpx.Client) -> None:
    memory_id = write(http)["memory_id"]
    several = http.post("/read", json={"memory_id": memory_id, "queries": QUERIES}).json()
    alone = http.post("/read", json={"memory_id": memory_id, "query": QUERIES[1]}).json()
    assert alone["answers"][0]["answer"] == several["answers"][1]["answer"]


def test_a_seed_repeats_its_draws(http: httpx.Client) -> None:
    body = {"memory_id": write(http)["memory_id"], "query": "?!kk:", "temperature": 5.0}
    draws = [
        http.post("/read", json={**body, "seed": seed}).json()["answers"][0]["answer"]
        for seed in (1, 2, 3, 1)
    ]
    assert draws[0] == draws[3]
    assert len(set(draws)) > 1


def test_max_new_tokens_limits_an_answer(http: httpx.Client) -> None:
    memory_id = write(http)["memory_id"]
    body = {"memory_id": memory_id, "queries": QUERIES, "max_new_tokens": 1}
    for answer in http.post("/read", json=body).json()["answers"]:
        assert answer["tokens"] <= 1


def test_a_deleted_memory_is_not_found(http: httpx.Client) -> None:
    memory_id = write(http)["memory_id"]
    assert http.delete(f"/memories/{memory_id}").status_code == 204
    problem(http.get(f"/memories/{memory_id}"), 404, "memory-not-found")
    problem(http.delete(f"/memories/{memory_id}"), 404, "memory-not-found")
    read = http.post("/read", json={"memory_id": memory_id, "query": "?!kk:"})
    problem(read, 404, "memory-not-found")


def test_a_deleted_memory_leaves_the_device(
    settings: Settings, tiny: Checkpoint, serving: Serving
) -> None:
    class Device(TorchDevice):
        forgotten = queue.Queue[str]()

        def forget(self, memory_id: str) -> None:
            super().forget(memory_id)
            self.forgotten.put(memory_id)

    device = Device(prefix_bytes=2**20)
    engine = engine_on(device, BatchLimits(1000, 100), AdmissionLimits(1000, 20))
    app = create_app(settings, models=Models([tiny]), engine=engine)
    with serving(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        memory_id = write(client)["memory_id"]
        client.post("/read", json={"memory_id": memory_id, "query": "?!kk:"})
        assert client.delete(f"/memories/{memory_id}").status_code == 204
        assert device.forgotten.get(timeout=10) == memory_id


def test_models_and_health(http: httpx.Client, tiny: Checkpoint) -> None:
    (model,) = http.get("/models").json()["models"]
    assert model["name"] == "tiny"
    assert model["fingerprint"] == tiny.fingerprint
    assert model["max_context_tokens"] == 64
    assert model["cache_bytes_per_token"] == 2 * 2 * 32 * 4
    for route in ("/livez", "/readyz"):
        assert http.get(route).json() == {"status": "ok"}


def test_metrics_name_routes_but_no_memories(http: httpx.Client) -> None:
    memory_id = write(http)["memory_id"]
    http.get(f"/memories/{memory_id}")
    http.get("/no/such/route")
    text = http.get("/metrics").text
    assert 'gradmem_requests_total{method="GET",route="/memories/{memory_id}",status="200"}' in text
    assert 'gradmem_batch_size_bucket{kind="write"' in text
    assert memory_id not in text
    assert "no/such" not in text


@pytest.mark.parametrize(
    ("fields", "status", "slug"),
    [
        ({"document": "!a:" + "b" * 80}, 413, "document-too-long"),
        ({"document": "!a b\n:c!|"}, 422, "unknown-characters"),
        ({"document": ""}, 422, "invalid-request"),
        ({"document": 7}, 422, "invalid-request"),
        ({"document": None}, 422, "invalid-request"),
        ({"document": "!a:b!|", "steps": 0}, 422, "invalid-request"),
        ({"document": "!a:b!|", "steps": 9}, 422, "write-steps"),
        ({"document": "!a:b!|", "steps": "2"}, 422, "invalid-request"),
        ({"document": "!a:b!|", "model": "other"}, 404, "model-not-found"),
        ({"document": "!a:b!|", "ttl_seconds": 0}, 422, "invalid-request"),
        ({"document": "!a:b!|", "ttl_seconds": 10**12}, 422, "invalid-request"),
        ({"document": "!a:b!|", "metadata": {"n": 1}}, 422, "invalid-request"),
        ({"document": "!a:b!|", "surplus": 1}, 422, "invalid-request"),
        ({}, 422, "invalid-request"),
    ],
)
def test_an_invalid_write_is_refused(
    http: httpx.Client, fields: Any, status: int, slug: str
) -> None:
    problem(http.post("/write", json=fields), status, slug)


def test_a_document_too_long_is_refused_with_both_numbers(http: httpx.Client) -> None:
    body = problem(http.post("/write", json={"document": "a" * 99}), 413, "document-too-long")
    assert body["limit"] == 64
    assert "99" in body["detail"]
    assert "64" in body["detail"]


def test_unknown_characters_are_reported_with_their_positions(http: httpx.Client) -> None:
    response = http.post("/write", json={"document": "!a:é!|\N{GRINNING FACE}"})
    body = problem(response, 422, "unknown-characters")
    assert body["positions"] == [3, 6]
    assert "'é' at 3" in body["detail"]


@pytest.mark.parametrize(
    ("fields", "status", "slug"),
    [
        ({"query": "?!kk:" * 4}, 413, "query-too-long"),
        ({"query": ""}, 422, "empty-query"),
        ({"query": "é"}, 422, "unknown-characters"),
        ({"query": "?!kk:", "queries": ["?!kk:"]}, 422, "invalid-request"),
        ({"queries": []}, 422, "invalid-request"),
        ({"queries": ["?!kk:"] * 257}, 422, "invalid-request"),
        ({}, 422, "invalid-request"),
        ({"query": "?!kk:", "max_new_tokens": 9}, 422, "generation"),
        ({"query": "?!kk:", "max_new_tokens": 0}, 422, "invalid-request"),
        ({"query": "?!kk:", "temperature": -1}, 422, "invalid-request"),
        ({"query": "?!kk:", "top_p": 0}, 422, "invalid-request"),
        ({"query": "?!kk:", "seed": 2**63}, 422, "invalid-request"),
    ],
)
def test_an_invalid_read_is_refused(
    http: httpx.Client, fields: Any, status: int, slug: str
) -> None:
    memory_id = write(http)["memory_id"]
    problem(http.post("/read", json={"memory_id": memory_id, **fields}), status, slug)


@pytest.mark.parametrize("memory_id", [UNKNOWN_ID, "short", "0" * 31 + "G", "é"])
def test_an_id_without_a_memory_is_not_found(http: httpx.Client, memory_id: str) -> None:
    problem(http.get(f"/memories/{memory_id}"), 404, "memory-not-found")
    problem(http.delete(f"/memories/{memory_id}"), 404, "memory-not-found")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"document": "\\ud800"}'])
def test_a_malformed_body_is_refused(http: httpx.Client, content: bytes) -> None:
    response = http.post("/write", content=content, headers={"content-type": "application/json"})
    problem(response, 422, "invalid-request")


@pytest.mark.parametrize(
    "fields",
    [
        {"query": "\udc80"},
        {"queries": ["?!kk:", "\ud800"]},
        {"query": "?!kk:", "\ud800": 1},
    ],
)
def test_lone_surrogates_in_a_read_are_refused(http: httpx.Client, fields: dict[str, Any]) -> None:
    body = json.dumps({"memory_id": UNKNOWN_ID, **fields})
    response = http.post("/read", content=body, headers={"content-type": "application/json"})
    problem(response, 422, "invalid-request")


@pytest.mark.parametrize(
    "fields", [{"model": "\ud800"}, {"metadata": {"\ud800": "x"}}, {"metadata": {"x": "\ud800"}}]
)
def test_lone_surrogates_in_a_write_are_refused(http: httpx.Client, fields: dict[str, Any]) -> None:
    body = json.dumps({"document": DOCUMENT, **fields})
    response = http.post("/write", content=body, headers={"content-type": "application/json"})
    problem(response, 422, "invalid-request")


def test_texts_far_beyond_the_limit_are_refused_without_tokenizing(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory_id = write(http)["memory_id"]

    def encode(*_: object) -> list[int]:
        raise AssertionError("the text was tokenized")

    monkeypatch.setattr(Tokenizer, "encode", encode)
    text = "a" * 900_000
    problem(http.post("/write", json={"document": text}), 413, "document-too-long")
    query = {"memory_id": memory_id, "query": text}
    problem(http.post("/read", json=query), 413, "query-too-long")


def test_a_response_names_only_the_first_invalid_fields(http: httpx.Client) -> None:
    fields = {f"field{i}": i for i in range(1000)}
    body = problem(http.post("/write", json=fields), 422, "invalid-request")
    assert len(body["errors"]) == 20


def test_an_unforeseen_error_is_answered_without_its_text(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def add(*_: object, **__: object) -> None:
        raise ValueError(SECRET)

    monkeypatch.setattr(Memories, "add", add)
    problem(http.post("/write", json={"document": DOCUMENT}), 500, "internal")
    assert "failed with ValueError" in caplog.text
    assert SECRET not in caplog.text
    assert 'route="/write",status="500"' in http.get("/metrics").text


def test_a_trailing_slash_is_another_route(http: httpx.Client) -> None:
    assert http.post("/write/", json={"document": DOCUMENT}).status_code == 404


def test_a_body_that_is_not_utf_8_is_refused(http: httpx.Client) -> None:
    response = http.post("/write", content=b"\xff", headers={"content-type": "application/json"})
    assert "Invalid JSON" in problem(response, 422, "invalid-request")["detail"]


def test_an_unknown_route_or_method_is_a_problem(http: httpx.Client) -> None:
    for response, status in ((http.get("/nothing"), 404), (http.put("/write"), 405)):
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["type"] == "about:blank"


def test_a_body_beyond_the_limit_is_refused(
    settings: Settings, tiny: Checkpoint, serving: Serving
) -> None:
    app = create_app(settings.model_copy(update={"max_body_bytes": 1024}), models=Models([tiny]))
    body = json.dumps({"document": "a" * 2000}).encode()
    with serving(app) as url:
        declared = httpx.post(f"{url}/write", content=body)
        assert problem(declared, 413, "body-too-large")["limit"] == 1024
        headers = {"content-type": "application/json"}
        parts = iter([body[:900], body[900:]])
        streamed = httpx.post(f"{url}/write", content=parts, headers=headers)
        problem(streamed, 413, "body-too-large")


def test_a_memory_of_another_checkpoint_is_refused(
    settings: Settings, tmp_path: Path, serving: Serving
) -> None:
    old = load_checkpoint(save_tiny(tmp_path / "old", seed=1))
    new = load_checkpoint(save_tiny(tmp_path / "new", seed=2))
    with serving(create_app(settings, models=Models([old]))) as url:
        memory_id = httpx.post(f"{url}/write", json={"document": DOCUMENT}).json()["memory_id"]
    with serving(create_app(settings, models=Models([new]))) as url:
        read = httpx.post(f"{url}/read", json={"memory_id": memory_id, "query": "?!kk:"})
    detail = problem(read, 409, "fingerprint-mismatch")["detail"]
    assert old.fingerprint in detail
    assert new.fingerprint in detail


def test_memories_outlive_the_process(
    settings: Settings, tiny: Checkpoint, serving: Serving
) -> None:
    with serving(create_app(settings, models=Models([tiny]))) as url:
        memory_id = httpx.post(f"{url}/write", json={"document": DOCUMENT}).json()["memory_id"]
        before = httpx.post(f"{url}/read", json={"memory_id": memory_id, "queries": QUERIES})
    with serving(create_app(settings, models=Models([tiny]))) as url:
        after = httpx.post(f"{url}/read", json={"memory_id": memory_id, "queries": QUERIES})
    assert before.json() == after.json()


def test_the_service_recovers_with_its_redis(
    settings: Settings, tiny: Checkpoint, serving: Serving, own_redis: RedisServer
) -> None:
    app = create_app(
        settings.model_copy(update={"store_url": own_redis.url}), models=Models([tiny])
    )
    with serving(app) as url, httpx.Client(base_url=url, timeout=30) as http:
        assert http.post("/write", json={"document": DOCUMENT}).status_code == 201
        own_redis.stop()
        response = http.post("/write", json={"document": DOCUMENT})
        problem(response, 503, "store-unavailable")
        assert response.headers["retry-after"]
        problem(await_readiness(http, 503), 503, "not-ready")
        assert http.get("/livez").status_code == 200
        own_redis.start()
        assert http.post("/write", json={"document": DOCUMENT}).status_code == 201
        assert await_readiness(http, 200).json() == {"status": "ok"}


def test_the_log_holds_no_text_and_no_memory_id(
    http: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    memory_id = write(http, document=f"!{SECRET}:7x!|")["memory_id"]
    http.post("/read", json={"memory_id": memory_id, "query": f"?!{SECRET}:"})
    http.post("/write", json={"document": f"{SECRET} \n"})
    http.post("/write", json={"document": SECRET, "steps": "x"})
    http.get(f"/memories/{memory_id}")
    deadline = time.monotonic() + 10  # a request is logged after its response
    while "/memories/{memory_id} 200" not in caplog.text:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "POST /write 201" in caplog.text
    assert SECRET not in caplog.text
    assert memory_id not in caplog.text


def test_openapi_describes_every_route_with_examples(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/write",
        "/write/batch",
        "/read",
        "/jobs",
        "/jobs/{job_id}",
        "/jobs/{job_id}/results",
        "/memories",
        "/memories/delete",
        "/memories/{memory_id}",
        "/memories/{memory_id}/blob",
        "/memories/{memory_id}/pages/{page_id}",
        "/memories/{memory_id}/prompt-embeds",
        "/models",
        "/models/{name}/initial-memory",
        "/v1/chat/completions",
        "/v1/models",
        "/v1/models/{model}",
        "/limits",
        "/livez",
        "/readyz",
        "/metrics",
    }
    schemas = document["components"]["schemas"]
    for name in ("MemoryInfo", "ReadResponse"):
        assert schemas[name]["examples"], name
    for path in ("/write", "/read", "/v1/chat/completions"):
        content = document["paths"][path]["post"]["requestBody"]["content"]
        assert content["application/json"]["schema"]["examples"], path
