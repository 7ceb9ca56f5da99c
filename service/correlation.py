"""Ids by which the log lines, the problem and the trace of a request are found."""

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from opentelemetry.trace import Span, SpanContext, format_span_id, format_trace_id, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
"Form of an id that a client may choose: nothing that a log or a header would have to escape."

Headers = list[tuple[bytes, bytes]]

_propagator = TraceContextTextMapPropagator()


@dataclass
class Correlation:
    """The ids of a request that is being answered, and its client."""

    request_id: str
    "The client's, or that of the trace."
    trace_id: str
    "The client's (W3C trace context), or a new one."
    parent: SpanContext | None = None
    "The client's span, where it sent a `traceparent`."
    span_id: str | None = None
    "The service's own span, where traces are on."
    tenant: str | None = None
    "Tenant of its client, once that is known."
    key_id: str | None = None
    "Public id of the key that it came with, where keys are used."

    @property
    def ids(self) -> dict[str, str]:
        """The ids, as log lines hold them."""
        ids = {"request_id": self.request_id, "trace_id": self.trace_id}
        return ids if self.span_id is None else ids | {"span_id": self.span_id}

    def note_span(self, span: Span) -> None:
        """Take over the ids of the service's own span."""
        context = span.get_span_context()
        self.trace_id = format_trace_id(context.trace_id)
        self.span_id = format_span_id(context.span_id)


_current: ContextVar[Correlation | None] = ContextVar("correlation", default=None)


def current_request() -> Correlation | None:
    """Return the ids of the request whose task this is; None outside of requests."""
    return _current.get()


@contextmanager
def correlated(headers: Headers) -> Iterator[Correlation]:
    """Answer a request within the body: what is logged there gets its ids.

    Args:
        headers: Its header, as ASGI holds it; empty where it could not be read.
    """
    request = _identify(headers)
    token = _current.set(request)
    try:
        yield request
    finally:
        _current.reset(token)


def _identify(headers: Headers) -> Correlation:
    wanted = (b"x-request-id", b"traceparent", b"tracestate")
    sent = {name: value for name, value in headers if name in wanted}
    parent = None
    if b"traceparent" in sent:
        parent = _parse_parent(sent)
    trace_id = secrets.token_hex(16) if parent is None else format_trace_id(parent.trace_id)
    chosen = sent.get(b"x-request-id", b"")
    request_id = chosen.decode() if REQUEST_ID.fullmatch(chosen) else trace_id
    return Correlation(request_id, trace_id, parent)


def _parse_parent(sent: dict[bytes, bytes]) -> SpanContext | None:
    """Return the span that a client names; None where its header is not as W3C wants it."""
    carrier = {name.decode(): value.decode("latin-1") for name, value in sent.items()}
    parent = get_current_span(_propagator.extract(carrier)).get_span_context()
    return parent if parent.is_valid else None
