"""Metrics and traces of requests, over a real uvicorn, and the alerts that are made of them."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, format_span_id, format_trace_id
from ruamel.yaml import YAML

from gradmem_core.checkpoints.checkpoint import Checkpoint
from service import tracing
from service.app import create_app
from service.models import Models
from service.settings import Settings
from service.telemetry import Telemetry
from tests.service.conftest import Serving

ROOT = Path(__file__).resolve().parents[2]
PLANTED = "pLaNtEd"
DOCUMENT = f"!aB:{PLANTED}!!kk:Q3!|"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def http(
    settings: Settings, tiny: Checkpoint, serving: Serving, exporter: InMemorySpanExporter
) -> Iterator[httpx.Client]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry = Telemetry(provider.get_tracer("test"))
    app = create_app(settings, models=Models([tiny]), telemetry=telemetry)
    with serving(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client
    provider.shutdown()


def spans_of(exporter: InMemorySpanExporter, name: str) -> dict[str, ReadableSpan]:
    """Return the spans of the trace of the request of this name, once it has ended."""
    deadline = time.monotonic() + 30
    while True:
        spans = exporter.get_finished_spans()
        if roots := [span for span in spans if span.name == name]:
            trace_id = roots[-1].context.trace_id
            return {span.name: span for span in spans if span.context.trace_id == trace_id}
        assert time.monotonic() < deadline, [span.name for span in spans]
        time.sleep(0.02)


def test_a_trace_has_the_parts_of_a_request(
    http: httpx.Client, exporter: InMemorySpanExporter
) -> None:
    memory_id = http.post("/write", json={"document": DOCUMENT}).json()["memory_id"]
    writing = spans_of(exporter, "POST /write")
    assert {"queue", "write", "store put"} <= set(writing)
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    body = {"memory_id": memory_id, "query": f"?!{PLANTED}:"}
    assert http.post("/read", json=body, headers=headers).is_success
    reading = spans_of(exporter, "POST /read")
    root = reading["POST /read"]
    assert {"queue", "read", "store get"} <= set(reading)
    assert root.kind is SpanKind.SERVER
    assert root.parent is not None
    assert format_trace_id(root.context.trace_id) == TRACE
    assert format_span_id(root.parent.span_id) == PARENT
    assert root.attributes is not None
    assert root.attributes["http.response.status_code"] == 200
    for part in ("queue", "read", "store get"):
        parent = reading[part].parent
        assert parent is not None
        assert parent.span_id == root.context.span_id
        assert times(root)[0] <= times(reading[part])[0] + 10**7  # two clocks
        assert times(reading[part])[1] <= times(root)[1] + 10**7
    assert http.get("/memories/" + "0" * 32).status_code == 404
    failed = spans_of(exporter, "GET /memories/{memory_id}")["store get"]
    assert failed.attributes == {"error.type": "MemoryNotFoundError"}
    everything = "".join(span.to_json() for span in exporter.get_finished_spans())
    assert PLANTED not in everything
    assert memory_id not in everything


def times(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


def test_without_a_collector_nothing_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tracing.ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    assert tracing.create_tracer() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert tracing.create_tracer() is None


def test_metrics_count_answers_by_reason_and_operations_of_the_store(http: httpx.Client) -> None:
    memory_id = http.post("/write", json={"document": DOCUMENT}).json()["memory_id"]
    body = {"memory_id": memory_id, "queries": ["?!kk:"] * 3, "min_confidence": 1.0}
    reasons = {answer["reason"] for answer in http.post("/read", json=body).json()["answers"]}
    assert reasons <= {"below threshold", "not stated"}
    assert http.get("/memories/" + "0" * 32).status_code == 404
    metrics = http.get("/metrics").text
    answers = re.findall(r'gradmem_answers_total\{outcome="([^"]*)"\} ([\d.]+)', metrics)
    assert {outcome for outcome, _ in answers} == reasons
    assert sum(float(count) for _, count in answers) == 3
    for operation, outcome in (("put", "ok"), ("get", "ok"), ("get", "MemoryNotFoundError")):
        assert f'store_operations_total{{operation="{operation}",outcome="{outcome}"}}' in metrics
    assert 'gradmem_store_operations_total{operation="probe",outcome="ok"}' in metrics


def test_alerts_are_of_metrics_that_exist_and_are_explained() -> None:
    rules: dict[str, Any] = YAML(typ="safe", pure=True).load(ROOT / "deploy/alerts.yml")
    registry = Telemetry().registry
    known = {f"{name}{end}" for name in registry._names_to_collectors for end in ("", "_bucket")}
    page = (ROOT / "docs/OPERATIONS.md").read_text()
    for rule in rules["groups"][0]["rules"]:
        names = set(re.findall(r"gradmem_[a-z_]+", rule["expr"]))
        assert names <= known, rule["alert"]
        assert names or rule["expr"].startswith("up{")
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert f"`{rule['alert']}`" in page
