"""Pages that are written again from a new text, over HTTP."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from gradmem_core.checkpoints.checkpoint import Checkpoint
from service.app import create_app
from service.models import Models
from service.settings import Settings
from tests.service.conftest import MAX_PAGES, Serving
from tests.service.test_http import problem
from tests.service.test_records_http import UNKNOWN_ID, records, write
from tests.service.test_streams import EVENTS, events_of

QUERIES = ["key 03", "x", "y"]


@pytest.fixture
def http(lists_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=lists_url, timeout=30) as client:
        yield client


def put(
    http: httpx.Client, memory: dict[str, Any], page: int, document: str, **fields: object
) -> dict[str, Any]:
    path = f"/memories/{memory['memory_id']}/pages/{memory['pages'][page]['page_id']}"
    response = http.put(path, json={"document": document, **fields})
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()
    return result


def read(http: httpx.Client, memory: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the answers without their pages, whose ids are random."""
    body = {"memory_id": memory["memory_id"], "queries": QUERIES, "min_confidence": 0}
    answers: list[dict[str, Any]] = http.post("/read", json=body).json()["answers"]
    for answer in answers:
        assert answer.pop("page_id") in {page["page_id"] for page in memory["pages"]}
    return answers


def assert_same_answers(answers: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer.pop("confidence") == pytest.approx(wanted.pop("confidence"), abs=1e-5)
        assert answer == wanted


def test_a_page_is_replaced_and_all_else_stays(http: httpx.Client) -> None:
    kept = {"name": "numbers", "metadata": {"from": "a test"}, "ttl_seconds": 600}
    memory = write(http, records(12), **kept)
    changed = put(http, memory, 1, "x: 1\nX: 2\nhello")
    before, after = memory["pages"], changed["pages"]
    assert [page["page_id"] for page in after] == [page["page_id"] for page in before]
    assert (after[0], after[2]) == (before[0], before[2])
    assert (after[1]["records"], changed["records"]) == (1, 9)
    assert (changed["duplicate_keys"], changed["skipped_lines"]) == (["X"], [3])
    for field in ("memory_id", "name", "metadata", "created_at", "expires_at"):
        assert changed[field] == memory[field]
    shown = http.get(f"/memories/{memory['memory_id']}").json()
    assert {name: changed[name] for name in shown} == shown


def test_the_new_text_answers_at_once(http: httpx.Client) -> None:
    memory, fresh = write(http, records(5)), write(http, "x: 1")
    old = read(http, memory)  # its prefix is cached now
    changed = put(http, memory, 0, "x: 1")
    new = read(http, changed)
    assert new != old
    assert_same_answers(new, read(http, fresh))


def test_a_service_does_not_answer_from_what_another_one_has_replaced(
    lists: Checkpoint, settings: Settings, serving: Serving, redis_server: str
) -> None:
    shared = settings.model_copy(update={"store_url": redis_server})
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(httpx.Client(base_url=url, timeout=30))
            for url in [
                stack.enter_context(serving(create_app(shared, models=Models([lists]))))
                for _ in range(2)
            ]
        )
        memory, fresh = write(one, records(5)), write(one, "x: 1")
        read(two, memory)
        changed = put(one, memory, 0, "x: 1")
        assert_same_answers(read(two, changed), read(two, fresh))


def test_several_pages_take_the_place_of_one_and_belong_to_it(http: httpx.Client) -> None:
    memory = write(http, records(12))
    first, second, third = (page["page_id"] for page in memory["pages"])

    def ids(changed: dict[str, Any]) -> list[str]:
        return [page["page_id"] for page in changed["pages"]]

    three = put(http, memory, 1, records(12, first=20))
    assert [page["records"] for page in three["pages"]] == [4, 4, 4, 4, 4]
    assert [ids(three)[place] for place in (0, 1, 4)] == [first, second, third]
    assert len(set(ids(three))) == 5
    repeated = put(http, memory, 1, records(12, first=20))
    assert ids(repeated) == ids(three)
    two = put(http, memory, 1, records(8, first=20))
    assert ids(two) == [*ids(three)[:3], third]
    of_the_second = put(http, two, 2, records(8, first=40))
    assert ids(of_the_second) == ids(three)
    assert ids(put(http, memory, 1, "x: 1")) == [first, second, third]
    put(http, memory, 1, records(8, first=20))
    path = f"/memories/{memory['memory_id']}"
    assert http.delete(f"{path}/pages/{second}").status_code == 204
    assert ids(http.get(path).json()) == [first, third]


def test_the_only_page_is_replaced_but_not_deleted(http: httpx.Client) -> None:
    memory = write(http, "x: 1")
    changed = put(http, memory, 0, records(8))
    assert len(changed["pages"]) == 2
    path = f"/memories/{memory['memory_id']}/pages/{memory['pages'][0]['page_id']}"
    assert "no other page" in problem(http.delete(path), 422, "invalid-input")["detail"]
    single = write(http, "!aB:7x!|", model="tiny")
    assert len(put(http, single, 0, "!kk:Q3!|")["pages"]) == 1


def test_a_refused_replacement_changes_nothing(http: httpx.Client) -> None:
    memory = write(http, records(5 * MAX_PAGES - 5))
    path = f"/memories/{memory['memory_id']}"
    page = f"{path}/pages/{memory['pages'][0]['page_id']}"
    before = http.get(path).json()

    def replace(page: str = page, **fields: object) -> httpx.Response:
        return http.put(page, json={"document": "a: 1", **fields})

    full = problem(replace(document=records(13, first=50)), 413, "too-many-pages")
    assert "keeps 3 of at most 5 pages" in full["detail"]
    problem(replace(f"{path}/pages/{'0' * 16}"), 404, "page-not-found")
    problem(replace(f"{path}/pages/x"), 404, "page-not-found")
    problem(replace(f"/memories/{UNKNOWN_ID}/pages/{'0' * 16}"), 404, "memory-not-found")
    problem(replace(document=""), 422, "invalid-request")
    problem(replace(model="tiny"), 422, "invalid-request")
    problem(replace(steps=99), 422, "write-steps")
    assert http.get(path).json() == before


def test_only_the_checkpoint_that_wrote_a_memory_replaces_its_pages(
    lists: Checkpoint, tiny: Checkpoint, settings: Settings, serving: Serving
) -> None:
    with (
        serving(create_app(settings, models=Models([lists]))) as url,
        httpx.Client(base_url=url, timeout=30) as http,
    ):
        memory = write(http, "a: 1")
    path = f"/memories/{memory['memory_id']}/pages/{memory['pages'][0]['page_id']}"
    with (
        serving(create_app(settings, models=Models([tiny]))) as url,
        httpx.Client(base_url=url, timeout=30) as http,
    ):
        response = http.put(path, json={"document": "!aB:7x!|"})
        problem(response, 409, "fingerprint-mismatch")


def test_a_replacement_is_streamed(http: httpx.Client) -> None:
    memory = write(http, "a: 1")
    path = f"/memories/{memory['memory_id']}/pages/{memory['pages'][0]['page_id']}"
    response = http.put(path, json={"document": "b: 2"}, headers=EVENTS)
    *steps, (name, result) = events_of(response.text)
    assert [name for name, _ in steps] == ["step"] * 2
    assert (name, result["memory_id"]) == ("result", memory["memory_id"])


@pytest.mark.anyio
async def test_pages_replaced_at_once_are_all_replaced(lists_url: str) -> None:
    async with httpx.AsyncClient(base_url=lists_url, timeout=30) as http:
        memory = (await http.post("/write", json={"document": records(15)})).json()
        path = f"/memories/{memory['memory_id']}"
        paths = [f"{path}/pages/{page['page_id']}" for page in memory["pages"]]
        appended = {"document": "b: 1", "append_to": memory["memory_id"]}
        answers = await asyncio.gather(
            *(http.put(page, json={"document": f"x{n}: 1"}) for n, page in enumerate(paths)),
            http.post("/write", json=appended),
        )
        assert [answer.status_code for answer in answers] == [200, 200, 200, 201]
        pages = (await http.get(path)).json()["pages"]
    assert [page["records"] for page in pages] == [1, 1, 1, 1]
