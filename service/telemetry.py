"""Prometheus metrics for operators; they hold no text and no memory ids.

Nor do they give away the length of a document or an answer to somebody who reads them before and
after: tokens are counted in lots, and of the tokens of answers one in many is timed.
"""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TIMES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
TOKEN_LOT = 1024
"Tokens that are counted at a time."
TIMED_TOKENS = 64
"Steps of READ, a token of each answer, of which one is timed."
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class Telemetry:
    """The metrics of a service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter(
            "requests_total", "Requests answered.", ["method", "route", "status"]
        )
        self.request_seconds = self._histogram(
            "request_seconds", "Time from a request's arrival to its answer.", ["route"]
        )
        self.waiting = Gauge(
            "gradmem_waiting_requests", "Requests in the engine's queue.", registry=self.registry
        )
        self.queue_seconds = self._histogram(
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
        self.cancelled = self._counter("cancelled_total", "Requests whose client left.")
        self.expired = self._counter("expired_total", "Requests that timed out.")

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
