"""Prometheus metrics for operators; they hold no text and no memory ids.

Nor do they give away the length of a document or an answer to somebody who reads them before and
after: tokens are counted in lots, and of the tokens of answers one in many is timed.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry.trace import (
    NonRecordingSpan,
    SpanKind,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
)
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from service.correlation import Correlation
from service.stores import Usage

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TIMES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
TOKEN_LOT = 1024
"Tokens that are counted at a time."
TIMED_TOKENS = 64
"Steps of READ, a token of each answer, of which one is timed."
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class Telemetry:
    """The metrics of a service, in a registry of their own, and its traces where they are on.

    Args:
        tracer: Makes the spans; None for no traces.
    """

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer
        self.registry = CollectorRegistry()
        self.answers = self._counter(
            "answers_total", "Answers to queries: found, or the reason why not.", ["outcome"]
        )
        self.store_operations = self._counter(
            "store_operations_total",
            "Operations of the store: ok, or the class of the error.",
            ["operation", "outcome"],
        )
        self.store_seconds = self._histogram(
            "store_seconds", "Time of an operation of the store.", ["operation"], TIMES
        )
        self.requests = self._counter(
            "requests_total", "Requests answered.", ["method", "route", "status"]
        )
        self.request_seconds = self._histogram(
            "request_seconds", "Time from a request's arrival to its answer.", ["route"]
        )
        self._waiting = Gauge(
            "gradmem_waiting_requests", "Requests in the engine's queue.", registry=self.registry
        )
        self._queue_seconds = self._histogram(
            "queue_seconds", "Time from a request's arrival to its first turn.", ["kind"], TIMES
        )
        self.device_seconds = self._histogram(
            "step_seconds",
            f"Time of a gradient step of WRITE, or of one token in {TIMED_TOKENS} of READ.",
            ["kind"],
            TIMES,
        )
        self.batch_size = self._histogram(
            "batch_size",
            f"Documents of a step, or queries of one token in {TIMED_TOKENS}.",
            ["kind"],
            BATCH_SIZES,
        )
        self.padding = self._histogram(
            "padding_ratio", "Share of a WRITE batch's tokens that are padding.", [], SHARES
        )
        self.tokens = self._counter(
            "tokens_total",
            f"Document tokens in gradient steps, and answer tokens, in lots of {TOKEN_LOT}.",
            ["kind"],
        )
        self._uncounted = {"write": 0, "read": 0}
        self._untimed = 0
        self.rejected = self._counter("rejected_total", "Requests refused by a full engine.")
        self._cancelled = self._counter("cancelled_total", "Requests whose client left.")
        self.jobs = Gauge("gradmem_jobs", "Jobs that have not ended.", registry=self.registry)
        self._store_memories = Gauge(
            "gradmem_store_memories", "Memories in the store.", registry=self.registry
        )
        self._store_bytes = Gauge(
            "gradmem_store_bytes", "Bytes of the memories in the store.", registry=self.registry
        )
        self.observe_usage(None)
        self.job_documents = self._counter(
            "job_documents_total", "Documents of jobs by outcome: written or failed.", ["outcome"]
        )
        self.webhooks = self._counter(
            "webhooks_total",
            "Attempts to send webhooks by outcome: delivered, failed or abandoned.",
            ["outcome"],
        )
        self._expired = self._counter("expired_total", "Requests that timed out.")

    def observe_usage(self, usage: Usage | None) -> None:
        """Record what is in the store; None where that is unknown."""
        self._store_memories.set(math.nan if usage is None else usage.memories)
        self._store_bytes.set(math.nan if usage is None else usage.bytes)

    def observe_waiting(self, jobs: int) -> None:
        """Record the number of jobs that have not begun."""
        self._waiting.set(jobs)

    def observe_queue(self, operation: str, seconds: float) -> None:
        """Record the time from a job's arrival to its first turn."""
        self._queue_seconds.labels(operation).observe(seconds)

    def count_cancelled(self) -> None:
        """Count a job that was dropped because its client had left."""
        self._cancelled.inc()

    def count_expired(self) -> None:
        """Count a job that timed out."""
        self._expired.inc()

    def observe_gradient_step(self, lengths: Sequence[int], seconds: float) -> None:
        """Record a gradient step.

        Args:
            lengths: Tokens of each document in the batch.
            seconds: Time on the device.
        """
        tokens, padded = sum(lengths), len(lengths) * max(lengths)
        self.padding.observe(round(1 - tokens / padded, 1))
        self._count_tokens("write", tokens)
        self._observe("write", len(lengths), seconds)

    def observe_token(self, queries: int, seconds: float) -> None:
        """Record a token of a READ batch; `seconds` is the time on the device."""
        self._count_tokens("read", queries)
        self._untimed += 1
        if self._untimed == TIMED_TOKENS:
            self._untimed = 0
            self._observe("read", queries, seconds)

    def _observe(self, kind: str, rows: int, seconds: float) -> None:
        self.device_seconds.labels(kind).observe(seconds)
        self.batch_size.labels(kind).observe(rows)

    def _count_tokens(self, kind: str, tokens: int) -> None:
        lots, self._uncounted[kind] = divmod(self._uncounted[kind] + tokens, TOKEN_LOT)
        self.tokens.labels(kind).inc(lots * TOKEN_LOT)

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request; `route` is the template, never the path."""
        self.requests.labels(method, route, str(status)).inc()
        self.request_seconds.labels(route).observe(seconds)
        span = get_current_span()
        if span.is_recording():
            span.update_name(f"{method} {route}")
            span.set_attribute("http.request.method", method)
            span.set_attribute("http.route", route)
            span.set_attribute("http.response.status_code", status)
            if status >= 500:
                span.set_status(StatusCode.ERROR)

    def count_store_operation(self, operation: str, outcome: str, seconds: float) -> None:
        """Count an operation of the store."""
        self.store_operations.labels(operation, outcome).inc()
        self.store_seconds.labels(operation).observe(seconds)

    @contextmanager
    def trace_request(self, request: Correlation) -> Iterator[None]:
        """Trace a request within the body, as a part of its client's trace where it has one."""
        if self._tracer is None:
            yield
            return
        parent = request.parent
        context = None if parent is None else set_span_in_context(NonRecordingSpan(parent))
        with self._tracer.start_as_current_span(
            "request",
            context,
            kind=SpanKind.SERVER,
            record_exception=False,
            set_status_on_exception=False,  # its description would be the error's text
        ) as span:
            request.note_span(span)
            yield

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Trace a part of a request within the body; of an error its class, never its text."""
        if self._tracer is None:
            yield
            return
        with self._tracer.start_as_current_span(
            name, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except BaseException as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(StatusCode.ERROR)
                raise

    def trace_work(self, operation: str, queued: float, began: float | None) -> None:
        """Trace work that ends now, and its wait before it.

        Args:
            operation: The operation.
            queued: Time at which it arrived, by the monotonic clock.
            began: Time at which the device took it up; None if it never did.
        """
        if self._tracer is None:
            return
        offset = time.time() - time.monotonic()
        end = time.time_ns()
        start = _nanoseconds(queued + offset)
        turn = end if began is None else _nanoseconds(began + offset)
        self._tracer.start_span("queue", start_time=start).end(turn)
        if began is not None:
            self._tracer.start_span(operation, start_time=turn).end(end)

    def exposition(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _histogram(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        buckets: Sequence[float] = Histogram.DEFAULT_BUCKETS,
    ) -> Histogram:
        return Histogram(f"gradmem_{name}", text, labels, buckets=buckets, registry=self.registry)

    def _counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(f"gradmem_{name}", text, labels, registry=self.registry)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
