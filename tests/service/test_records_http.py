"""Lists of records over HTTP: pages, appending, deleting a page, and every bad input."""

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.tokenizer import ABSENT
from service.app import create_app
from service.models import Models
from service.settings import Settings
from tests.service.conftest import MAX_PAGES, Serving
from tests.service.test_http import problem

UNKNOWN_ID = "0" * 32


@pytest.fixture
def http(lists_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=lists_url, timeout=30) as client:
        yield client


def records(count: int, *, first: int = 0) -> str:
    """Records of 12 tokens each, five to a page."""
    return "\n".join(f"key {i:02}: {i:04}" for i in range(first, first + count))


def write(http: httpx.Client, document: str, **fields: object) -> dict[str, Any]:
    response = http.post("/write", json={"document": document, **fields})
    assert response.status_code == 201, response.text
    result: dict[str, Any] = response.json()
    return result


def test_a_long_list_is_several_pages(http: httpx.Client) -> None:
    memory = write(http, "My numbers\n" + records(12) + "\nKEY 03: 9999")
    assert (memory["records"], memory["tokens"]) == (12, 144)
    assert [page["records"] for page in memory["pages"]] == [4, 4, 4]
    assert [page["tokens"] for page in memory["pages"]] == [48, 48, 48]
    assert len({page["page_id"] for page in memory["pages"]}) == 3
    assert (memory["duplicate_keys"], memory["skipped_lines"]) == (["KEY 03"], [1])
    assert memory["losses"] == pytest.approx(
        [sum(page["losses"][k] for page in memory["pages"]) / 3 for k in range(3)]
    )
    shown = http.get(f"/memories/{memory['memory_id']}").json()
    assert {name: memory[name] for name in shown} == shown


def test_pages_may_take_different_numbers_of_steps(http: httpx.Client) -> None:
    memory = write(http, records(12), steps="auto")
    assert memory["write_steps"] == max(page["write_steps"] for page in memory["pages"])
    assert len(memory["losses"]) == memory["write_steps"] + 1
    last = sum(page["losses"][-1] * page["tokens"] for page in memory["pages"]) / memory["tokens"]
    assert memory["losses"][-1] == pytest.approx(last)


def test_every_query_is_read_against_all_pages(http: httpx.Client) -> None:
    memory = write(http, records(12))
    queries = [" KEY 03", "key 11:", "nobody"]
    body = {"memory_id": memory["memory_id"], "queries": queries}
    answers = http.post("/read", json=body).json()["answers"]
    assert [answer["query"] for answer in answers] == queries
    pages = {page["page_id"] for page in memory["pages"]}
    for answer in answers:
        assert answer["page_id"] in pages
        assert answer["found"] == (answer["answer"] is not None)
    for query, answer in zip(queries, answers, strict=True):
        alone = http.post("/read", json={"memory_id": memory["memory_id"], "query": query}).json()
        assert alone["answers"][0] | {"confidence": 0} == answer | {"confidence": 0}


def test_the_most_queries_are_answered_from_the_most_pages(http: httpx.Client) -> None:
    memory = write(http, records(5 * MAX_PAGES))
    assert len(memory["pages"]) == MAX_PAGES
    body = {"memory_id": memory["memory_id"], "queries": ["key 01"] * 256, "max_new_tokens": 2}
    assert len(http.post("/read", json=body).json()["answers"]) == 256


def test_appended_pages_join_the_memory(http: httpx.Client) -> None:
    memory = write(http, records(5), metadata={"from": "a test"}, ttl_seconds=600)
    whole = write(http, "x: 1\nx: 2\nhello", append_to=memory["memory_id"])
    assert whole["pages"][0] == memory["pages"][0]
    assert [page["records"] for page in whole["pages"]] == [5, 1]
    assert (whole["duplicate_keys"], whole["skipped_lines"]) == (["x"], [3])
    for field in ("memory_id", "metadata", "expires_at", "created_at"):
        assert whole[field] == memory[field]
    assert http.get(f"/memories/{memory['memory_id']}").json()["pages"] == whole["pages"]


@pytest.mark.anyio
async def test_pages_appended_at_once_all_join_the_memory(lists_url: str) -> None:
    async with httpx.AsyncClient(base_url=lists_url, timeout=30) as http:
        memory = (await http.post("/write", json={"document": "a: 1"})).json()
        bodies = [{"document": f"b{i}: {i}", "append_to": memory["memory_id"]} for i in range(4)]
        answers = await asyncio.gather(*(http.post("/write", json=body) for body in bodies))
        assert [answer.status_code for answer in answers] == [201] * 4
        shown = (await http.get(f"/memories/{memory['memory_id']}")).json()
    assert len(shown["pages"]) == 5
    assert len({page["page_id"] for page in shown["pages"]}) == 5


@pytest.mark.anyio
async def test_many_changes_at_once_all_succeed(
    lists: Checkpoint, settings: Settings, serving: Serving
) -> None:
    with serving(create_app(settings, models=Models([lists]))) as url:
        async with httpx.AsyncClient(base_url=url, timeout=30) as http:
            memory = (await http.post("/write", json={"document": records(25)})).json()
            path, id_ = f"/memories/{memory['memory_id']}", memory["memory_id"]
            before = [page["page_id"] for page in memory["pages"]]
            assert len(before) == 5
            answers = await asyncio.gather(
                *(
                    http.post("/write", json={"document": f"b{i}: {i}", "append_to": id_})
                    for i in range(30)
                ),
                *(http.delete(f"{path}/pages/{page}") for page in before[:-1]),
            )
            assert [answer.status_code for answer in answers] == [201] * 30 + [204] * 4
            shown = (await http.get(path)).json()
    after = [page["page_id"] for page in shown["pages"]]
    assert len(set(after)) == len(after) == 31
    assert after[0] == before[-1]
    assert shown["records"] == 35


@pytest.mark.anyio
async def test_services_that_share_a_store_append_to_one_memory(
    lists: Checkpoint, settings: Settings, serving: Serving, redis_server: str
) -> None:
    shared = settings.model_copy(update={"store_url": redis_server})
    apps = [create_app(shared, models=Models([lists])) for _ in range(2)]
    with serving(apps[0]) as first, serving(apps[1]) as second:
        async with httpx.AsyncClient(timeout=30) as http:
            memory = (await http.post(f"{first}/write", json={"document": "a: 1"})).json()
            bodies = [{"document": f"b{i}: 1", "append_to": memory["memory_id"]} for i in range(8)]
            answers = await asyncio.gather(
                *(
                    http.post(f"{url}/write", json=body)
                    for body in bodies
                    for url in (first, second)
                )
            )
            assert [answer.status_code for answer in answers] == [201] * 16
            shown = (await http.get(f"{first}/memories/{memory['memory_id']}")).json()
    assert len({page["page_id"] for page in shown["pages"]}) == 17


def test_a_refused_append_changes_nothing(http: httpx.Client) -> None:
    memory = write(http, records(5 * MAX_PAGES - 5))
    path, id_ = f"/memories/{memory['memory_id']}", memory["memory_id"]
    before = http.get(path).json()

    def append(**fields: object) -> httpx.Response:
        return http.post("/write", json={"document": "a: 1", "append_to": id_, **fields})

    problem(append(document=records(8, first=50)), 413, "too-many-pages")
    problem(append(model="tiny", document="!aB:7x!|"), 409, "fingerprint-mismatch")
    problem(append(append_to=UNKNOWN_ID), 404, "memory-not-found")
    problem(append(append_to="x"), 422, "invalid-request")
    problem(append(ttl_seconds=60), 422, "invalid-request")
    problem(append(metadata={"a": "b"}), 422, "invalid-request")
    problem(append(steps=99), 422, "write-steps")
    assert http.get(path).json() == before


def test_memories_without_pages_refuse_appending(http: httpx.Client) -> None:
    memory = write(http, "!aB:7x!|", model="tiny")
    assert (memory["records"], len(memory["pages"])) == (None, 1)
    body = {"document": "!kk:Q3!|", "append_to": memory["memory_id"]}
    assert "have pages" in problem(http.post("/write", json=body), 422, "invalid-input")["detail"]


def test_a_page_can_be_deleted(http: httpx.Client) -> None:
    memory = write(http, records(12))
    path = f"/memories/{memory['memory_id']}"
    first, second, third = memory["pages"]
    assert http.delete(f"{path}/pages/{second['page_id']}").status_code == 204
    assert http.get(path).json()["pages"] == [first, third]
    problem(http.delete(f"{path}/pages/{second['page_id']}"), 404, "page-not-found")
    problem(http.delete(f"{path}/pages/x"), 404, "page-not-found")
    problem(http.delete(f"/memories/{UNKNOWN_ID}/pages/x"), 404, "memory-not-found")
    assert http.delete(f"{path}/pages/{first['page_id']}").status_code == 204
    problem(http.delete(f"{path}/pages/{third['page_id']}"), 422, "invalid-input")
    assert http.get(path).json()["pages"] == [third]


@pytest.mark.parametrize(
    ("document", "status", "slug"),
    [
        ("clef: \u00e9", 422, "unknown-characters"),
        ("key: \x05", 422, "unknown-characters"),
        ("hello world", 422, "no-record"),
        ("\n", 422, "no-record"),
        ("", 422, "invalid-request"),
        ("key of 15 chars: 1", 413, "record-too-long"),
        ("key: 12345678", 413, "record-too-long"),
        (records(5 * MAX_PAGES + 1), 413, "too-many-pages"),
        ("".join(f"{i}: {i}\n" for i in range(60_000)), 413, "too-many-pages"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_an_invalid_list_is_refused(
    http: httpx.Client, document: str, status: int, slug: str
) -> None:
    body = problem(http.post("/write", json={"document": document}), status, slug)
    assert "12345678" not in body["detail"]


@pytest.mark.parametrize(
    ("query", "status", "slug"),
    [
        ("", 422, "empty-query"),
        (" : ", 422, "empty-query"),
        ("a key of 15 chr", 413, "query-too-long"),
        ("cl\u00e9", 422, "unknown-characters"),
        ("\x15", 422, "unknown-characters"),
    ],
)
def test_an_invalid_query_is_refused(
    http: httpx.Client, query: str, status: int, slug: str
) -> None:
    memory = write(http, "a: 1")
    body = {"memory_id": memory["memory_id"], "query": query}
    problem(http.post("/read", json=body), status, slug)


def test_streams_number_pages_and_hide_the_absence_mark(http: httpx.Client) -> None:
    body: dict[str, object] = {"document": records(12)}
    text = http.post("/write", json=body, headers={"Accept": "text/event-stream"}).text
    events = [part.split("\n") for part in text.strip().split("\n\n")]
    steps = [json.loads(data[6:]) for name, data in events if name == "event: step"]
    assert sorted((event["page"], event["step"]) for event in steps) == [
        (page, step) for page in range(3) for step in (1, 2)
    ]
    memory = json.loads(events[-1][1][6:])
    body = {"memory_id": memory["memory_id"], "queries": ["key 01", "nobody"], "stream": True}
    text = http.post("/read", json=body).text
    events = [part.split("\n") for part in text.strip().split("\n\n")]
    tokens = [json.loads(data[6:]) for name, data in events if name == "event: token"]
    answers = json.loads(events[-1][1][6:])["answers"]
    for query, answer in enumerate(answers):
        texts = [token["text"] for token in tokens if token["query"] == query]
        assert "".join(texts) == (answer["answer"] or "")
    assert ABSENT not in text
    assert "\\u0015" not in text


def test_no_text_in_the_logs(
    http: httpx.Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.WARNING)
    memory_id = write(http, "sEcReT: hIdDeN\nsEcReT: tWiCe")["memory_id"]
    append = {"document": "sEcReT: hIdDeN", "append_to": memory_id}
    refused = [
        {"document": "a very long sEcReT key: hIdDeN"},
        {"document": "hIdDeN sEcReT"},
        {"document": "sEcReT: hIdDeN \u00e9"},
        append | {"model": "tiny"},
        append | {"ttl_seconds": 60},
    ]
    statuses = [http.post("/write", json=body).status_code for body in refused]
    assert statuses == [413, 422, 422, 409, 422]
    for query in ("sEcReT", "a very long sEcReT key", "sEcReT \u00e9"):
        http.post("/read", json={"memory_id": memory_id, "query": query})
    http.delete(f"/memories/{memory_id}/pages/{UNKNOWN_ID[:16]}")
    http.get("/livez")  # a request is logged before the response to the next
    log = caplog.text.lower()
    for line in ("POST /write 201", "POST /write 409", "POST /read 200", "/pages/{page_id} 404"):
        assert line.lower() in log
    assert not any(word in log for word in ("secret", "hidden", "twice", memory_id))


def test_models_name_their_document_format(http: httpx.Client) -> None:
    models = http.get("/models").json()["models"]
    formats = {model["name"]: model["document_format"] for model in models}
    assert formats == {"lists": "records", "tiny": "text"}


def test_a_service_for_lists_is_ready(http: httpx.Client) -> None:
    assert http.get("/readyz").status_code == 200
