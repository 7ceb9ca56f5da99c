"""Texts over HTTP: pages, appending, deleting a page, and every bad input.

The model is untrained: nothing that it writes comes back, so every page is weak.
"""

import asyncio
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

import service.memories
import service.offload
import service.reading
import service.writing
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.texts.documents import prepare_document
from gradmem_core.writing import compression
from service.app import create_app
from service.engine import AdmissionLimits, BatchLimits, TokenChosen, TorchDevice
from service.engine.device import OngoingRead, OngoingWrite, WriteOutcome
from service.models import Models
from service.settings import Settings
from tests.pretrained import text_checkpoint
from tests.service.conftest import Serving, running
from tests.service.engines import engine_on
from tests.service.test_http import problem
from tests.service.test_streams import EVENTS, events_of

MAX_PAGES = 20
PAGE = 120
"Tokens of a page."
UNKNOWN_ID = "0" * 32
JSON = {"content-type": "application/json"}
SENTENCE = "The tower by the river was built in {year} and stands near the old market."
FAMILY = "👨‍👩‍👧‍👦"


def make_text(sentences: int) -> str:
    """Return a text of one page for every three sentences, each a paragraph."""
    return "\n\n".join(SENTENCE.format(year=1800 + number) for number in range(sentences))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return text_checkpoint(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def store_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store") / "memories.db"


@pytest.fixture(scope="module")
def url(text: Checkpoint, tiny: Checkpoint, store_file: Path) -> Iterator[str]:
    """Base URL of a service for texts, with the tiny checkpoint beside it."""
    settings = Settings(store_url=f"sqlite:///{store_file}", threads=1, max_pages=MAX_PAGES)
    with running(create_app(settings, models=Models([text, tiny]))) as base:
        yield base


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


def read_store(store_file: Path) -> dict[str, bytes]:
    """Return every record of a store by its id."""
    connection = sqlite3.connect(store_file)
    try:
        return dict(connection.execute("SELECT key, record FROM memories"))
    finally:
        connection.close()


@pytest.fixture
def unchanged(http: httpx.Client, store_file: Path) -> Iterator[None]:
    """Assert that a test changes nothing in the store and leaves the service alive."""
    before = read_store(store_file)
    yield
    assert read_store(store_file) == before
    assert http.get("/livez").json() == {"status": "ok"}


def write(http: httpx.Client, document: str, **fields: object) -> dict[str, Any]:
    response = http.post("/write", json={"document": document, **fields})
    assert response.status_code == 201, response.text
    result: dict[str, Any] = response.json()
    return result


def read(http: httpx.Client, memory_id: str, **fields: object) -> list[dict[str, Any]]:
    body = {"memory_id": memory_id, "max_new_tokens": 4, **fields}
    response = http.post("/read", json=body)
    assert response.status_code == 200, response.text
    answers: list[dict[str, Any]] = response.json()["answers"]
    return answers


def count_reads(http: httpx.Client) -> float:
    """Return the number of READs that the service's device has begun."""
    for line in http.get("/metrics").text.splitlines():
        if line.startswith('gradmem_queue_seconds_count{kind="read"}'):
            return float(line.split()[-1])
    return 0.0


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("document", "status", "slug"),
    [
        ("", 422, "invalid-request"),
        (" \n\t \r\n\f\u00a0\u2003", 422, "empty-document"),
        ("\ufeff\n", 422, "empty-document"),
        ("a\x00b", 422, "binary-text"),
        ("\x1b[1mbold\x1b[0m", 422, "binary-text"),
        ("delete\x7f", 422, "binary-text"),
        ("next line\u0085", 422, "binary-text"),
        ("\x89PNG\r\n\x1a\n" + "\x00" * 99, 422, "binary-text"),
        ("half a pair \ud800", 422, "invalid-request"),
        ("\udc80", 422, "invalid-request"),
        ("w" * 2000, 413, "word-too-long"),
        ("e" + "\u0301" * 2000, 413, "word-too-long"),
        (make_text(200), 413, "too-many-pages"),
    ],
    ids=ascii,
)
def test_an_invalid_text_is_refused(
    http: httpx.Client, document: str, status: int, slug: str
) -> None:
    body = json.dumps({"document": document})  # httpx cannot encode lone surrogates
    for headers in (JSON, JSON | EVENTS):
        problem(http.post("/write", content=body, headers=headers), status, slug)


@pytest.mark.usefixtures("unchanged")
def test_control_characters_are_reported_with_their_positions(http: httpx.Client) -> None:
    response = http.post("/write", json={"document": "one\r\ntwo\x00three\x07"})
    body = problem(response, 422, "binary-text")
    assert body["positions"] == [8, 14]
    assert "U+0000 at 8 (line 2)" in body["detail"]
    assert "three" not in body["detail"]


@pytest.mark.usefixtures("unchanged")
def test_a_word_too_long_is_refused_with_both_numbers_and_its_line(http: httpx.Client) -> None:
    response = http.post("/write", json={"document": "short\n\n" + "w" * 2000})
    body = problem(response, 413, "word-too-long")
    assert body["limit"] == PAGE
    assert body["detail"].startswith("line 3: a word has 2000 tokens and a page takes at most 120")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("streamed", [False, True])
def test_ten_megabytes_are_refused_with_both_numbers_and_the_setting(
    http: httpx.Client, streamed: bool
) -> None:
    content = b'{"document": "' + b"many words " * 10**6 + b'"}'
    parts = (content[at : at + 2**16] for at in range(0, len(content), 2**16))
    response = http.post("/write", content=parts if streamed else content, headers=JSON)
    body = problem(response, 413, "body-too-large")
    assert body["limit"] == 2**20
    detail = body["detail"]
    assert "at most 1048576" in detail
    assert "GRADMEM_MAX_BODY_BYTES" in detail
    if not streamed:
        assert str(len(content)) in detail


@pytest.mark.usefixtures("unchanged")
def test_too_many_pages_are_refused_with_both_numbers_and_the_setting(http: httpx.Client) -> None:
    body = problem(http.post("/write", json={"document": make_text(200)}), 413, "too-many-pages")
    assert body["limit"] == MAX_PAGES
    for part in ("at least 24 pages", "at most 20", "GRADMEM_MAX_PAGES"):
        assert part in body["detail"]


@pytest.mark.parametrize(
    "document",
    [
        FAMILY * 30,
        "\n".join(["😀😃😄😁", "🏳️‍🌈👍🏽", FAMILY * 4] * 3),
        "נהר זורם דרך העיר העתיקה. " * 12,
        "يجري النهر عبر المدينة القديمة. بُني البرج عام ١٨٨٩.\n" * 4,
        "这条河流穿过老城。塔建于1889年。" * 12,
        "https://example.org/" + "path/to/" * 240,
        "\ufefftwo\r\nlines\r\n",
        "a" + " " * 200_000 + "b",
    ],
    ids=lambda value: ascii(value)[:24],
)
def test_an_unusual_text_is_written_and_read(http: httpx.Client, document: str) -> None:
    memory = write(http, document, steps=1)
    assert all(page["tokens"] <= PAGE for page in memory["pages"])
    assert memory["pages"][-1]["last_line"] == len(document.rstrip().split("\n"))
    (answer,) = read(http, memory["memory_id"], query="מתי? 什么时候 🗼")
    assert answer["page_id"] in {page["page_id"] for page in memory["pages"]}


def test_an_invalid_query_is_refused(http: httpx.Client, store_file: Path) -> None:
    memory_id = write(http, "The old tower.")["memory_id"]
    before = read_store(store_file)

    def assert_refused(status: int, slug: str, **fields: object) -> str:
        body = json.dumps({"memory_id": memory_id, **fields})
        for stream in ({}, {"stream": True}):
            content = json.dumps(json.loads(body) | stream)
            response = http.post("/read", content=content, headers=JSON)
            detail: str = problem(response, status, slug)["detail"]
        return detail

    assert_refused(422, "empty-query", query="")
    assert_refused(422, "empty-query", query=" \n\t")
    assert_refused(422, "empty-query", queries=["When?", ""])
    assert_refused(422, "invalid-request", query="\ud800")
    detail = assert_refused(413, "query-too-long", query="What is it? " * 20)
    assert "at most 80" in detail
    assert "What" not in detail
    assert_refused(413, "query-too-long", query="w" * 900_000)
    assert_refused(413, "query-too-long", queries=["When?", "w" * 200])
    for confidence in (-0.1, 1.1, float("nan"), float("inf"), "0.5"):
        assert_refused(422, "invalid-request", query="When?", min_confidence=confidence)
    assert_refused(422, "generation", query="When?", max_new_tokens=41)
    assert read_store(store_file) == before


def test_a_missing_answer_has_a_reason(http: httpx.Client) -> None:
    memory_id = write(http, make_text(2))["memory_id"]
    queries = ["When was the tower built?", "Where?"]
    for answer in read(http, memory_id, queries=queries, min_confidence=0):
        assert (answer["found"], answer["reason"]) == (True, None)
        assert 0 < answer["confidence"] < 1
    for answer in read(http, memory_id, queries=queries, min_confidence=1):
        assert (answer["found"], answer["answer"]) == (False, None)
        assert answer["reason"] == "below threshold"
    by_default = read(http, memory_id, queries=queries)
    assert by_default == read(http, memory_id, queries=queries, min_confidence=None)


def test_pages_carry_the_numbers_of_their_lines(http: httpx.Client, text: Checkpoint) -> None:
    document = make_text(6)
    memory = write(http, document, verify=False)
    pages = prepare_document(text, document, max_pages=MAX_PAGES).pages
    assert len(pages) > 1
    assert [page["tokens"] for page in memory["pages"]] == [len(page.ids) for page in pages]
    lines = [(page["first_line"], page["last_line"]) for page in memory["pages"]]
    assert lines == [(page.lines[0], page.lines[-1]) for page in pages]
    assert memory["records"] is None


def test_without_verify_nothing_is_read_back(http: httpx.Client) -> None:
    before = count_reads(http)
    memory = write(http, make_text(4), verify=False)
    assert memory["read_back"] is None
    assert [page["read_back"] for page in memory["pages"]] == [None] * len(memory["pages"])
    assert count_reads(http) == before
    memory = write(http, make_text(4))
    assert memory["read_back"] == 0
    assert all(page["read_back"]["words"] > 0 for page in memory["pages"])
    assert count_reads(http) > before


def test_auto_chooses_the_steps_of_each_page(http: httpx.Client, text: Checkpoint) -> None:
    memory = write(http, make_text(4), steps="auto")
    most = text.model.config.max_write_steps
    for page in memory["pages"]:
        assert 1 <= page["write_steps"] <= most
        assert len(page["losses"]) == page["write_steps"] + 1
    assert memory["write_steps"] == max(page["write_steps"] for page in memory["pages"])


def test_appended_pages_join_a_text(http: httpx.Client) -> None:
    memory = write(http, make_text(3), metadata={"title": "Town"}, ttl_seconds=600, verify=False)
    path = f"/memories/{memory['memory_id']}"
    first = f"{path}/prompt-embeds?page={memory['pages'][0]['page_id']}"
    vectors = http.get(first).content
    whole = write(http, "\n\n" + make_text(3), append_to=memory["memory_id"], verify=False)
    assert http.get(first).content == vectors  # packing int8 again loses nothing
    existing = len(memory["pages"])
    assert whole["pages"][:existing] == memory["pages"]
    added = whole["pages"][existing:]
    assert added[0]["first_line"] == 3  # of the appended document
    assert [page["tokens"] for page in added] == [page["tokens"] for page in memory["pages"]]
    assert len({page["page_id"] for page in whole["pages"]}) == 2 * existing
    for field in ("memory_id", "metadata", "expires_at", "created_at", "model"):
        assert whole[field] == memory[field]
    assert http.get(path).json()["pages"] == whole["pages"]


def test_a_refused_append_changes_nothing(http: httpx.Client, store_file: Path) -> None:
    id_ = write(http, make_text(3 * MAX_PAGES - 3), verify=False)["memory_id"]
    before = read_store(store_file)

    def append(**fields: object) -> httpx.Response:
        return http.post("/write", json={"document": "Rain.", "append_to": id_, **fields})

    body = problem(append(document=make_text(6)), 413, "too-many-pages")
    assert body["limit"] == MAX_PAGES
    assert "the memory keeps 19 of at most 20 pages" in body["detail"]
    assert "GRADMEM_MAX_PAGES" in body["detail"]
    problem(append(document="!aB:7x!|", model="tiny"), 409, "fingerprint-mismatch")
    problem(append(model="nobody"), 404, "model-not-found")
    problem(append(append_to=UNKNOWN_ID), 404, "memory-not-found")
    problem(append(ttl_seconds=60), 422, "invalid-request")
    problem(append(metadata={"a": "b"}), 422, "invalid-request")
    problem(append(document=" "), 422, "empty-document")
    problem(append(document="\x00"), 422, "binary-text")
    problem(append(steps=10**6), 422, "write-steps")
    assert read_store(store_file) == before


def test_a_document_is_split_into_fewer_pages_where_room_is_short(
    http: httpx.Client, text: Checkpoint
) -> None:
    section = "# Town\n\n" + "The tower by the river stands near the old market. " * 4
    document = "\n\n".join([section] * 5)  # a page per section where there is room
    pages = prepare_document(text, document, max_pages=MAX_PAGES).pages
    fewest = prepare_document(text, document, max_pages=len(pages) - 1).pages
    id_ = write(http, "Rain. " * 11, verify=False)["memory_id"]
    while (existing := len(http.get(f"/memories/{id_}").json()["pages"])) < MAX_PAGES - len(fewest):
        write(http, "Rain.", append_to=id_, steps=1, verify=False)
    whole = write(http, document, append_to=id_)  # there is no room for weak halves
    assert len(fewest) < len(pages)
    assert len(whole["pages"]) == existing + len(fewest) == MAX_PAGES


def test_a_page_of_a_text_can_be_deleted(http: httpx.Client) -> None:
    memory = write(http, make_text(9), verify=False)
    path, queries = f"/memories/{memory['memory_id']}", ["When?", "Where?", "Who?"]
    left = [page["page_id"] for page in memory["pages"]]
    assert len(left) == 3
    while len(left) > 1:
        answer = read(http, memory["memory_id"], queries=queries)[0]
        deleted = answer["page_id"]
        assert http.delete(f"{path}/pages/{deleted}").status_code == 204
        left.remove(deleted)
        answering = {
            answer["page_id"] for answer in read(http, memory["memory_id"], queries=queries)
        }
        assert answering <= set(left)
        assert [page["page_id"] for page in http.get(path).json()["pages"]] == left
        problem(http.delete(f"{path}/pages/{deleted}"), 404, "page-not-found")
    problem(http.delete(f"{path}/pages/{left[0]}"), 422, "invalid-input")
    assert len(read(http, memory["memory_id"], queries=queries)) == 3


def test_a_stream_numbers_halves_after_the_pages(http: httpx.Client, text: Checkpoint) -> None:
    document = make_text(6)
    pages = len(prepare_document(text, document, max_pages=MAX_PAGES).pages)
    response = http.post("/write", json={"document": document}, headers=EVENTS)
    *events, (name, result) = events_of(response.text)
    assert name == "result"
    assert {name for name, _ in events} == {"step"}
    steps: dict[int, list[int]] = {}
    for _, data in events:
        steps.setdefault(data["page"], []).append(data["step"])
    assert sorted(steps) == list(range(3 * pages))  # each page was weak, and has two halves
    assert all(numbers == [1, 2] for numbers in steps.values())
    assert list(steps)[:pages] == list(range(pages))
    assert all(page["read_back"]["right"] == 0 for page in result["pages"])
    assert len(result["pages"]) == pages  # the halves were no better


class Watched(TorchDevice):
    """The real device, with which a test can make a page diverge and block WRITE or READ."""

    def __init__(self) -> None:
        super().__init__(prefix_bytes=0)
        self.diverging = -1
        "Index of the page that diverges in each batch."
        self.may_write, self.may_read = threading.Event(), threading.Event()
        self.may_write.set()
        self.may_read.set()
        self.writing, self.reading = threading.Event(), threading.Event()

    def write_step(self, writes: Sequence[OngoingWrite]) -> list[WriteOutcome]:
        self.writing.set()
        assert self.may_write.wait(60)
        if len(writes) > self.diverging >= 0:
            writes[self.diverging].memory = torch.full_like(
                writes[self.diverging].checkpoint.model.initial_memory, torch.inf
            )
        return super().write_step(writes)

    def read_step(self, reads: Sequence[OngoingRead]) -> list[tuple[OngoingRead, TokenChosen]]:
        self.reading.set()
        assert self.may_read.wait(60)
        return super().read_step(reads)


@contextmanager
def watched_service(
    text: Checkpoint, folder: Path, serving: Serving
) -> Iterator[tuple[Watched, httpx.Client, Path]]:
    device, store_file = Watched(), folder / "watched.db"
    engine = engine_on(device, BatchLimits(2000, 500), AdmissionLimits(50_000, 60), threads=1)
    settings = Settings(store_url=f"sqlite:///{store_file}")
    app = create_app(settings, models=Models([text]), engine=engine)
    with serving(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        try:
            yield device, client, store_file
        finally:
            device.may_write.set()
            device.may_read.set()


def test_a_page_that_diverges_stores_nothing(
    text: Checkpoint, tmp_path: Path, serving: Serving
) -> None:
    with watched_service(text, tmp_path, serving) as (device, http, store_file):
        memory = write(http, "Rain.", verify=False)
        before = read_store(store_file)
        device.diverging = 1
        for fields in ({}, {"append_to": memory["memory_id"]}, {"steps": "auto"}):
            response = http.post("/write", json={"document": make_text(6), **fields})
            problem(response, 422, "write-diverged")
        response = http.post("/write", json={"document": make_text(6)}, headers=EVENTS)
        *_, (name, data) = events_of(response.text)
        assert (name, data["type"]) == ("error", "urn:gradmem:problem:write-diverged")
        assert read_store(store_file) == before
        device.diverging = -1
        write(http, make_text(6))


def test_a_timeout_while_reading_back_stores_nothing(
    text: Checkpoint, tmp_path: Path, serving: Serving
) -> None:
    with watched_service(text, tmp_path, serving) as (device, http, store_file):
        device.may_read.clear()
        response = http.post("/write", json={"document": make_text(6), "timeout": 3})
        body = problem(response, 504, "timeout")
        assert device.reading.is_set()
        assert "3 s" in body["detail"]
        device.may_read.set()
        assert read_store(store_file) == {}
        write(http, make_text(6))


@pytest.mark.parametrize("headers", [{}, EVENTS])
@pytest.mark.parametrize("kind", ["write", "read"])
def test_a_client_that_leaves_stores_nothing(
    text: Checkpoint, tmp_path: Path, serving: Serving, kind: str, headers: dict[str, str]
) -> None:
    with watched_service(text, tmp_path, serving) as (device, http, store_file):
        gate = device.may_write if kind == "write" else device.may_read
        begun = device.writing if kind == "write" else device.reading
        gate.clear()
        with (
            pytest.raises(httpx.ReadTimeout),
            http.stream(
                "POST", "/write", json={"document": make_text(6)}, headers=headers, timeout=1
            ) as response,
        ):
            response.read()
        assert begun.wait(60)
        until = time.monotonic() + 60
        while (
            'route="/write"' not in http.get("/metrics").text
        ):  # until the disconnection is noticed
            assert time.monotonic() < until
            time.sleep(0.01)
        gate.set()
        write(http, "Rain.", verify=False)  # is stored after anything before it
        assert len(read_store(store_file)) == 1


@pytest.mark.anyio
async def test_many_clients_at_once_are_all_answered(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=120) as http:

        async def use(number: int) -> None:
            body = {"document": make_text(4 + number % 3), "steps": 1}
            memory = await http.post("/write", json=body)
            assert memory.status_code == 201, memory.text
            ask = {"memory_id": memory.json()["memory_id"], "query": "When?", "max_new_tokens": 4}
            answer = await http.post("/read", json=ask)
            assert answer.status_code == 200, answer.text
            assert (await http.get("/livez")).status_code == 200

        await asyncio.gather(*(use(number) for number in range(16)))


Calls = list[tuple[str, bool]]
"Names of called functions; True for calls on the thread of an event loop."


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Calls of the functions that may take long."""
    recorded: Calls = []

    def watch(owner: object, name: str) -> None:
        original: Callable[..., object] = getattr(owner, name)

        def watched(*args: object, **kwargs: object) -> object:
            recorded.append((name, asyncio._get_running_loop() is not None))
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, watched)

    watch(service.writing, "prepare_document")
    watch(service.memories, "pack")
    watch(service.memories, "unpack")
    watch(service.reading, "prepare_query")
    for name in ("split_text", "make_probes"):
        watch(compression, name)
    return recorded


def test_texts_are_split_off_the_event_loop(http: httpx.Client, calls: Calls) -> None:
    memory = write(http, make_text(20), steps=1, verify=True)
    id_ = memory["memory_id"]
    assert {name for name, _ in calls} == {"prepare_document", "make_probes", "split_text", "pack"}
    assert not any(on_loop for _, on_loop in calls)
    calls.clear()
    write(http, "Rain.", append_to=id_)
    http.delete(f"/memories/{id_}/pages/{memory['pages'][0]['page_id']}")
    problem(http.post("/write", json={"document": "a " * 400_000}), 413, "too-many-pages")
    packing = [call for call in calls if call[0] in ("prepare_document", "pack")]
    assert packing == [("prepare_document", False), ("pack", False), *packing[2:]]
    assert not any(on_loop for _, on_loop in packing)


def test_large_requests_are_decoded_off_the_event_loop(
    http: httpx.Client, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = write(http, make_text(6), verify=False)["memory_id"]
    calls.clear()
    read(http, id_, query="When?")
    assert calls == [("unpack", True), ("prepare_query", True)]
    calls.clear()
    read(http, id_, queries=["When was the tower of the town built?" + " " * 20] * 256)
    assert set(calls) == {("prepare_query", True)}
    id_ = write(http, make_text(6), verify=False)["memory_id"]
    calls.clear()
    monkeypatch.setattr(service.offload, "SMALL_BYTES", 1000)
    http.get(f"/memories/{id_}")
    http.get(f"/memories/{id_}/prompt-embeds")
    read(http, id_, query="When?")
    assert calls == [("unpack", False), ("prepare_query", False)]


def test_many_unknown_fields_are_refused_quickly(http: httpx.Client) -> None:
    many = {f"field {number}": 1 for number in range(40_000)}
    body = problem(http.post("/write", json={"document": "a", **many}), 422, "invalid-request")
    assert len(body["errors"]) == 20
    response = http.post("/write", json={"document": "a", "metadata": many})
    body = problem(response, 422, "invalid-request")
    assert body["errors"] == [
        {"field": "body.metadata", "message": "Value error, at most 32 entries, not 40000"}
    ]


def test_no_word_of_a_text_leaks(
    http: httpx.Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.WARNING)
    responses = []
    secret = "The zebra of Xanadu knows 8675309 and tells it to nobody but the wombat."
    record = "Xanadu code: zebra8675309"
    id_ = write(http, f"# Xanadu\n\n{secret}\n\n{record}\n\n{make_text(5)}")["memory_id"]
    for document in (
        f"{secret}\x00",
        f"{secret} {'zebra' * 400}",
        "zebra wombat " * 5000,
        f"{secret}\ud800",
        "w" * 2000 + secret,
    ):
        for fields in ({}, {"append_to": id_}):
            content = json.dumps({"document": document, **fields})
            responses.append(http.post("/write", content=content, headers=JSON))
    responses.append(http.post("/write", json={"document": secret, "steps": "zebra"}))
    responses.append(http.post("/write", json={"document": secret, "metadata": {"a": 8675309}}))
    for query in ("zebra " * 200, "zebra\ud800", ["zebra"]):
        content = json.dumps({"memory_id": id_, "query": query})
        responses.append(http.post("/read", content=content, headers=JSON))
    assert {response.status_code for response in responses} == {413, 422}
    for stream in (False, True):
        body = {"memory_id": id_, "query": "What does the zebra of Xanadu know?", "stream": stream}
        assert http.post("/read", json=body).status_code == 200
    shown = http.get(f"/memories/{id_}").text
    metrics = http.get("/metrics").text  # a request is logged before the response to the next
    assert "POST /write 201" in caplog.text
    for place in (caplog.text, metrics, shown, *(response.text for response in responses)):
        assert not any(word in place.lower() for word in ("zebra", "xanadu", "8675309", "wombat"))
    assert id_ not in caplog.text + metrics


@pytest.mark.parametrize("headers", [{}, EVENTS])
@pytest.mark.filterwarnings("error")
def test_an_unforeseen_error_leaks_no_word_of_a_text(
    http: httpx.Client,
    store_file: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    headers: dict[str, str],
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.WARNING)
    before = read_store(store_file)

    def fail(*_: object, **__: object) -> list[object]:
        raise ValueError("zebra")

    monkeypatch.setattr(compression, "make_probes", fail)
    response = http.post("/write", json={"document": make_text(6)}, headers=headers)
    if headers:
        *_, (name, data) = events_of(response.text)
        assert (name, data["type"]) == ("error", "urn:gradmem:problem:internal")
    else:
        problem(response, 500, "internal")
    assert http.get("/livez").status_code == 200
    assert "failed with ValueError" in caplog.text
    assert "zebra" not in caplog.text + response.text
    assert read_store(store_file) == before


def test_a_service_for_texts_is_ready(http: httpx.Client) -> None:
    assert http.get("/readyz").status_code == 200
