"""Probabilities of single tokens, in the events `recall` and `token`, and M0 itself."""

import math
from statistics import fmean
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load

from gradmem_core.checkpoints.checkpoint import Checkpoint
from tests.service.test_streams import DOCUMENT, EVENTS, events_of

RECORDS = "".join(f"Key {number}: value {number}\n" for number in range(8))


def write(base_url: str, **fields: object) -> list[tuple[str, Any]]:
    """Write a document and return the events."""
    response = httpx.post(
        f"{base_url}/write", json={"recall": True, **fields}, headers=EVENTS, timeout=30
    )
    assert response.status_code == 200
    return events_of(response.text)


@pytest.mark.parametrize("steps", [1, 3, "auto"])
def test_the_losses_of_a_page_are_the_mean_of_its_tokens(base_url: str, steps: object) -> None:
    *events, (_, result) = write(base_url, document=DOCUMENT, steps=steps)
    ((page, tokens),) = [
        (data["page"], data["tokens"]) for name, data in events if name == "recall"
    ]
    assert page == 0
    assert "".join(token["text"] for token in tokens) == DOCUMENT
    first, *_, last = result["losses"]
    assert fmean(-math.log(token["before"]) for token in tokens) == pytest.approx(first, rel=1e-4)
    assert fmean(-math.log(token["after"]) for token in tokens) == pytest.approx(last, rel=1e-4)


def test_every_page_is_recalled(lists_url: str) -> None:
    *events, (_, result) = write(lists_url, document=RECORDS, model="lists", verify=False)
    recalls = [data for name, data in events if name == "recall"]
    assert len(result["pages"]) > 1
    assert [recall["page"] for recall in recalls] == list(range(len(result["pages"])))
    for recall, page in zip(recalls, result["pages"], strict=True):
        after = [-math.log(token["after"]) for token in recall["tokens"]]
        assert len(after) == page["tokens"]
        assert fmean(after) == pytest.approx(page["losses"][-1], rel=1e-4)
    texts = [token["text"] for recall in recalls for token in recall["tokens"]]
    assert "".join(texts) == "".join(f"key {n}\tvalue {n}\n" for n in range(8))  # as they are kept


def test_recall_is_sent_only_where_asked_for_and_only_as_events(base_url: str) -> None:
    names = [name for name, _ in write(base_url, document=DOCUMENT, recall=False)]
    assert "recall" not in names
    response = httpx.post(f"{base_url}/write", json={"document": DOCUMENT, "recall": True})
    assert response.status_code == 422
    assert "text/event-stream" in response.json()["detail"]


def test_tokens_have_the_probabilities_behind_the_confidence(base_url: str) -> None:
    memory = httpx.post(f"{base_url}/write", json={"document": DOCUMENT}).json()["memory_id"]
    body = {"memory_id": memory, "query": "?!aB:", "max_new_tokens": 1, "stream": True}
    *tokens, (_, result) = events_of(httpx.post(f"{base_url}/read", json=body).text)
    (answer,) = result["answers"]
    assert answer["finish_reason"] == "length"  # a stop token would count too
    assert [data["probability"] for _, data in tokens] == [pytest.approx(answer["confidence"])]


def test_the_initial_memory_is_where_writing_starts(base_url: str, tiny: Checkpoint) -> None:
    response = httpx.get(f"{base_url}/models/tiny/initial-memory")
    assert response.headers["content-type"] == "application/vnd.safetensors"
    (vectors,) = load(response.content).values()
    torch.testing.assert_close(vectors, tiny.model.initial_memory.detach())
    assert httpx.get(f"{base_url}/models/other/initial-memory").status_code == 404
