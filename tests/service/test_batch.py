"""Batches of documents over HTTP."""

import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gradmem_core.checkpoints.checkpoint import Checkpoint
from service.app import create_app
from service.engine import AdmissionLimits, BatchLimits, DeviceExecutor, Engine, TorchDevice
from service.models import Models
from service.schemas import MAX_DOCUMENTS
from service.settings import Settings
from service.telemetry import Telemetry
from tests.service.conftest import Serving
from tests.service.test_http import DOCUMENT, problem
from tests.service.test_idempotency import REPLAYED

ITEM = {"document": DOCUMENT, "steps": 1}


@pytest.fixture
def http(base_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=base_url, timeout=60) as client:
        yield client


def send(http: httpx.Client, *documents: object, key: str | None = None) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return http.post("/write/batch", json={"documents": documents}, headers=headers)


def results_of(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    results: list[dict[str, Any]] = response.json()["results"]
    return results


def test_each_document_has_its_result_in_order(http: httpx.Client) -> None:
    documents = [ITEM | {"name": str(number)} for number in range(9)]
    documents[3] = {"document": "€"}
    documents[7] = ITEM | {"model": "none"}
    results = results_of(send(http, *documents))
    for number, result in enumerate(results):
        if number in (3, 7):
            assert list(result) == ["problem"]
        else:
            memory = result["memory"]
            assert memory["name"] == str(number)
            shown = http.get(f"/memories/{memory['memory_id']}").json()
            assert shown == {key: memory[key] for key in shown}
    assert results[3]["problem"]["type"] == "urn:gradmem:problem:unknown-characters"
    assert "limit" not in results[3]["problem"]
    assert results[7]["problem"]["status"] == 404


@pytest.mark.parametrize(
    "documents", [[], [ITEM] * (MAX_DOCUMENTS + 1), [ITEM, {"document": ""}], [ITEM, {}]]
)
def test_a_batch_of_another_form_is_refused(
    http: httpx.Client, documents: list[dict[str, object]]
) -> None:
    problem(send(http, *documents), 422, "invalid-request")


def test_a_repeated_batch_gives_the_same_memories(http: httpx.Client) -> None:
    key = os.urandom(8).hex()
    documents = [ITEM, {"document": "€"}, ITEM]
    first, again = send(http, *documents, key=key), send(http, *documents, key=key)
    assert results_of(first) == results_of(again)
    assert REPLAYED not in first.headers
    assert again.headers[REPLAYED] == "true"
    problem(send(http, ITEM, key=key), 422, "idempotency-key-reused")


def test_what_was_not_the_documents_fault_is_tried_again(http: httpx.Client) -> None:
    key = os.urandom(8).hex()
    documents = [ITEM, ITEM | {"timeout": 1e-9}]
    written, failed = results_of(send(http, *documents, key=key))
    assert failed["problem"]["status"] == 504
    response = send(http, *documents, key=key)
    assert REPLAYED not in response.headers
    assert results_of(response)[0] == written


def test_a_batch_larger_than_the_room_is_written(
    settings: Settings, tiny: Checkpoint, serving: Serving
) -> None:
    telemetry = Telemetry()
    executor = DeviceExecutor(
        TorchDevice(prefix_bytes=0), BatchLimits(64, 16), telemetry, threads=1
    )
    engine = Engine(executor, AdmissionLimits(tokens=2 * len(DOCUMENT), seconds=60), telemetry)
    app = create_app(settings, models=Models([tiny]), engine=engine)
    with serving(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        results = results_of(send(client, *[ITEM] * 6))
        assert all("memory" in result for result in results)
    assert b"gradmem_rejected_total 0.0" not in telemetry.exposition()
