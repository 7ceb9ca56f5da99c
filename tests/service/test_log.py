"""Log lines, their ids, and what they must never hold: over a real uvicorn."""

import asyncio
import io
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gradmem_core.checkpoints.checkpoint import Checkpoint
from service import readiness
from service.app import create_app
from service.audit_log import memory_digest
from service.log import JsonFormatter, TextFormatter, configure_logging
from service.memories import Memories
from service.models import Models
from service.settings import Settings
from tests.service.conftest import Serving

PLANTED = "pLaNtEd"
DOCUMENT = f"!aB:{PLANTED}!!kk:Q3!|"
QUERY = f"?!{PLANTED}:"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


class Log:
    """All lines of all loggers at every level, in both forms."""

    def __init__(self) -> None:
        self.forms = {"json": io.StringIO(), "text": io.StringIO()}

    @property
    def text(self) -> str:
        return "".join(stream.getvalue() for stream in self.forms.values())

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.forms["json"].getvalue().splitlines()]

    def line(self, **fields: object) -> dict[str, Any]:
        """Return the line with these fields, once it is there."""
        deadline = time.monotonic() + 30
        while True:
            for line in self.lines:
                if fields.items() <= line.items():
                    return line
            assert time.monotonic() < deadline, (fields, self.text)
            time.sleep(0.02)


@pytest.fixture
def log() -> Iterator[Log]:
    log, root, audit = Log(), logging.getLogger(), logging.getLogger("gradmem.audit")
    handlers = []
    for form, formatter in (("json", JsonFormatter()), ("text", TextFormatter())):
        handler = logging.StreamHandler(log.forms[form])
        handler.setFormatter(formatter)
        handlers.append(handler)
    level, propagates, audit_level = root.level, audit.propagate, audit.level
    root.setLevel(logging.DEBUG)
    audit.setLevel(logging.INFO)
    audit.propagate = True
    for handler in handlers:
        root.addHandler(handler)
    yield log
    for handler in handlers:
        root.removeHandler(handler)
    root.setLevel(level)
    audit.propagate = propagates
    audit.setLevel(audit_level)


@pytest.fixture
def http(settings: Settings, tiny: Checkpoint, serving: Serving) -> Iterator[httpx.Client]:
    for name in ("httpx", "httpcore"):  # the test's own
        logging.getLogger(name).setLevel(logging.WARNING)
    app = create_app(settings, models=Models([tiny]))

    @app.get("/stray")
    async def stray() -> None:
        async def fail() -> None:
            raise ValueError(PLANTED)

        task = asyncio.create_task(fail())  # nobody asks how it ended
        await asyncio.wait([task])
        asyncio.get_running_loop().call_soon(int, PLANTED)

    with serving(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def test_no_line_at_any_level_holds_a_word_of_a_text(
    http: httpx.Client, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise ValueError(PLANTED) from KeyError(PLANTED)

    body = {"document": DOCUMENT, "metadata": {PLANTED: PLANTED}}
    memory_id = http.post("/write", json=body).json()["memory_id"]
    queries = {"memory_id": memory_id, "queries": [QUERY, QUERY]}
    assert http.post("/read", json=queries).status_code == 200
    assert b"event: result" in http.post("/read", json={**queries, "stream": True}).content
    assert http.post("/write", json={**body, PLANTED: PLANTED}).status_code == 422
    assert http.post("/write", content=f'{{"document": "{PLANTED}').status_code == 415
    assert http.get(f"/{PLANTED}?{PLANTED}", headers={PLANTED: PLANTED}).status_code == 404
    assert http.get("/livez", headers={"X-Request-Id": f"{PLANTED} {PLANTED}"}).is_success
    assert http.get("/stray").is_success
    with monkeypatch.context() as patch:
        patch.setattr(Memories, "add", fail)
        assert http.post("/write", json=body).status_code == 500
        stream = {"Accept": "text/event-stream"}
        assert b"event: error" in http.post("/write", json=body, headers=stream).content
    logging.getLogger("somebody").error("failed", exc_info=ValueError(PLANTED))
    assert http.delete(f"/memories/{memory_id}").status_code == 204

    log.line(route="/memories/{memory_id}", status=204)
    stray = "a task failed with"
    deadline = time.monotonic() + 30
    while log.text.count(stray) < 4:  # two failures in two forms
        assert time.monotonic() < deadline, log.text
        time.sleep(0.02)
    for expected in ("failed with ValueError", "test_log.py"):
        assert expected in log.text
    assert PLANTED not in log.text
    assert memory_id not in log.text


def test_a_line_a_problem_and_a_header_have_the_id_of_the_request(
    http: httpx.Client, log: Log
) -> None:
    response = http.get("/memories/none", headers={"X-Request-Id": "order-7.a_B"})
    assert response.headers.get_list("x-request-id") == ["order-7.a_B"]
    assert response.json()["request_id"] == "order-7.a_B"
    line = log.line(request_id="order-7.a_B")
    assert line["route"] == "/memories/{memory_id}"
    assert (line["method"], line["status"], line["logger"]) == ("GET", 404, "gradmem.access")
    assert re.search(r"GET /memories/\{memory_id\} 404 .* \[order-7\.a_B\]", log.text)


@pytest.mark.parametrize("unsafe", ["", "a b", "a" * 65, "a\tb", 'a"b', "é"])
def test_an_id_of_another_form_is_replaced(http: httpx.Client, unsafe: str) -> None:
    response = http.get("/livez", headers={b"X-Request-Id": unsafe.encode("latin-1")})
    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


def test_each_request_has_an_id_of_its_own(http: httpx.Client) -> None:
    ids = {http.get("/livez").headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


def test_a_probe_of_the_store_has_no_id_of_the_request_that_began_it(
    settings: Settings,
    tiny: Checkpoint,
    serving: Serving,
    log: Log,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readiness, "PROBE_SECONDS", 3600)
    monkeypatch.setattr(readiness, "FRESH_SECONDS", 0)
    with serving(create_app(settings, models=Models([tiny]))) as url:
        (tmp_path / "memories.db").unlink()
        assert httpx.post(f"{url}/write", json={"document": DOCUMENT}).status_code == 503
        assert log.line(method="POST")["request_id"]
        assert "request_id" not in log.line(logger="service.readiness")


def test_a_trace_of_the_client_is_taken_up(http: httpx.Client, log: Log) -> None:
    response = http.get("/livez", headers={"traceparent": PARENT})
    assert response.headers["x-request-id"] == TRACE
    assert log.line(request_id=TRACE)["trace_id"] == TRACE


@pytest.mark.parametrize(
    "header", ["", "00-0-0-0", PARENT.replace("4", "x"), f"00-{'0' * 32}-{'1' * 16}-01", "é" * 55]
)
def test_a_trace_that_is_malformed_is_ignored(http: httpx.Client, header: str) -> None:
    response = http.get("/livez", headers={b"traceparent": header.encode("latin-1")})
    assert response.is_success
    assert TRACE not in response.headers["x-request-id"]


def test_an_event_of_a_failed_stream_has_the_id(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise ValueError

    monkeypatch.setattr(Memories, "add", fail)
    headers = {"Accept": "text/event-stream", "X-Request-Id": "streamed"}
    response = http.post("/write", json={"document": "!aB:7x!|"}, headers=headers)
    last = response.text.rpartition("data: ")[2]
    assert json.loads(last)["request_id"] == "streamed"


def test_administrative_acts_are_recorded(lists_url: str, log: Log) -> None:
    with httpx.Client(base_url=lists_url, timeout=30) as http:
        _administer(http, log)


def _administer(http: httpx.Client, log: Log) -> None:
    memory_id = http.post("/write", json={"document": "one: 1"}).json()["memory_id"]
    more = {"document": "two: 2", "append_to": memory_id}
    page_id = http.post("/write", json=more).json()["pages"][0]["page_id"]
    page = f"/memories/{memory_id}/pages/{page_id}"
    assert http.put(page, json={"document": "one: 3"}).status_code == 200
    assert http.delete(page).status_code == 204
    assert log.line(act="memory.append")["pages"] == 1
    assert log.line(act="memory.replace_page")["page_id"] == page_id
    assert log.line(act="memory.delete_page")["page_id"] == page_id
    http.delete(f"/memories/{memory_id}", headers={"X-Request-Id": "erasure-5"})
    line = log.line(act="memory.delete")
    assert line["logger"] == "gradmem.audit"
    assert line["memory"] == memory_digest(memory_id)
    assert line["request_id"] == "erasure-5"
    http.delete(f"/memories/{memory_id}")
    assert sum(line.get("act") == "memory.delete" for line in log.lines) == 1


@pytest.mark.parametrize("form", ["json", "text"])
def test_what_a_thread_drops_is_logged_without_its_text(
    form: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, audit = logging.getLogger(), logging.getLogger("gradmem.audit")
    monkeypatch.setattr(root, "handlers", [])
    for logger, name in ((root, "level"), (audit, "level"), (audit, "propagate")):
        monkeypatch.setattr(logger, name, getattr(logger, name))
    monkeypatch.setattr(audit, "handlers", [])
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    configure_logging("info", form)

    def fail() -> None:
        raise ValueError(PLANTED)

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    log = capsys.readouterr().err
    assert "a thread failed with ValueError" in log
    assert PLANTED not in log
