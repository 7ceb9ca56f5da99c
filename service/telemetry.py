"""What the service tells its operators: Prometheus metrics. No text, no memory ids."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Telemetry:
    """The metrics of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "gradmem_requests_total",
            "Requests answered.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "gradmem_request_seconds",
            "Time from a request's arrival to its answer.",
            ["route"],
            registry=self.registry,
        )
        self.waiting = Gauge(
            "gradmem_waiting_requests", "Requests in the engine's queue.", registry=self.registry
        )
        self.batch_size = Histogram(
            "gradmem_batch_size",
            "Documents of a WRITE batch or queries of a READ batch.",
            ["kind"],
            buckets=BATCH_SIZES,
            registry=self.registry,
        )
        self.device_seconds = Histogram(
            "gradmem_device_seconds",
            "Time of a batch on the device.",
            ["kind"],
            registry=self.registry,
        )

    def batch(self, kind: str, size: int, seconds: float) -> None:
        """Count a finished batch.

        Args:
            kind: `write` or `read`.
            size: Documents or queries.
            seconds: Time on the device.
        """
        self.batch_size.labels(kind).observe(size)
        self.device_seconds.labels(kind).observe(seconds)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request; `route` is the template, never the path."""
        self.requests.labels(method, route, str(status)).inc()
        self.request_seconds.labels(route).observe(seconds)

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)
