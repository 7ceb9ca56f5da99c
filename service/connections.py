"""Connections that clients cannot hold: limits on the time and the size of what they send.

A connection waits for its client until a request has arrived whole, and again once it is answered.
Where there are too many, the one that has waited longest is closed: clients that send nothing, or
slowly, shut nobody out.
"""

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from starlette.responses import Response
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from service.correlation import correlated
from service.errors import response_of
from service.middleware import REFUSAL
from service.refusals import (
    HeaderTimeoutError,
    HeaderTooLargeError,
    MalformedRequestError,
    RefusalError,
    TooManyConnectionsError,
)

logger = logging.getLogger("gradmem.connections")

MAX_HEADER_BYTES = 2**16
"Most bytes of a request line with its header, or of anything else that is not a body."
LINGER_SECONDS = 5.0
"""Time in which a client may still send what nobody will read, once it is answered: were the
connection closed at once, the client might lose the answer."""
LINGER_BYTES = 2**20
"Most bytes that a client may still send then."
PROBES = (b"/livez", b"/readyz", b"/metrics")
"Paths that are answered over more connections than the limit: those who watch have to see it."


@dataclass
class ConnectionLimits:
    """Limits of all connections of a server."""

    connections: int
    "Most connections at a time."
    header_seconds: float
    "Longest time that a header may take to arrive."
    idle_seconds: float
    "Longest time between two requests."
    send_seconds: float = 60.0
    "Longest time that a client may take no part of a response."
    waiting: "OrderedDict[BoundedProtocol, None]" = field(default_factory=OrderedDict)
    "Connections that wait for their client, the longest first."

    @property
    def protocol(self) -> type[asyncio.Protocol]:
        """The protocol of connections within these limits, as uvicorn takes it."""
        return cast("type[asyncio.Protocol]", partial(BoundedProtocol, self))


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol within limits.

    Args:
        limits: The limits, and the connections that share them.
        config: uvicorn's configuration.
        server_state: uvicorn's state of all connections.
        app_state: State of the app's lifespan.
    """

    def __init__(
        self,
        limits: ConnectionLimits,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._surplus = False  # there was no room for it
        self._whole = True  # the last request has arrived whole
        self._unparsed = 0  # bytes since the last header or part of a body
        self._parsed = False
        self._lingering = False  # refused and to be closed: what still arrives is dropped
        self._last_answer: RefusalError | None = None  # to be sent after the answers before it
        self._due: float | None = None  # time by which the client has to go on
        self._unsent_at: float | None = None  # time since when it takes no response
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection on; where there are too many, close the one that waited longest."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            if self._limits.waiting:
                longest, _ = self._limits.waiting.popitem(last=False)
                longest.transport.abort()
            else:
                self._surplus = True
        self._wait(self._limits.header_seconds)
        self._enforce()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self._limits.waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what arrives; refuse a header, or a trailer, without end."""
        if self._whole and self._unparsed == 0 and not self._pending:
            self._due = self.loop.time() + self._limits.header_seconds
        self._unparsed += len(data)
        if self._lingering:
            if self._unparsed > LINGER_BYTES:
                self.transport.close()
            return
        super().data_received(data)
        if self._parsed:
            self._parsed, self._unparsed = False, 0
        elif self._unparsed > MAX_HEADER_BYTES:
            self._refuse(HeaderTooLargeError(MAX_HEADER_BYTES))

    def on_headers_complete(self) -> None:
        """Start a request; the app refuses one that breaks a limit."""
        self._parsed = True
        self._whole = False
        self._due = None
        if (refusal := self._refusal()) is not None:
            cast("dict[str, Any]", self.scope)[REFUSAL] = refusal
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass a part of a body on."""
        self._parsed = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that a request has arrived whole."""
        self._parsed = True
        self._whole = True
        if self.cycle.response_complete:
            self._wait(self._limits.idle_seconds)
        else:
            self._limits.waiting.pop(self, None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of one that is answered or has begun."""
        closing = self.transport.is_closing()
        if self._last_answer is not None and not self.pipeline and not closing:
            self._answer_and_close(self._last_answer)
            return
        super().on_response_complete()
        self._unset_keepalive_if_required()  # uvicorn's own timer: `_due` is enough
        if self._pending or closing:
            return
        if not self._whole:
            self._wait(LINGER_SECONDS)
        else:
            limits = self._limits
            self._wait(limits.header_seconds if self._unparsed else limits.idle_seconds)

    def pause_writing(self) -> None:
        """Note that the client is behind in taking a response."""
        self._unsent_at = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Note that the client has caught up."""
        self._unsent_at = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; uvicorn calls this."""
        del msg
        self._refuse(MalformedRequestError())

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing, where uvicorn would advise to install a library for WebSockets."""

    @property
    def _pending(self) -> bool:
        """True where the last request that began has no whole response yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def _refusal(self) -> RefusalError | None:
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > MAX_HEADER_BYTES:
            return HeaderTooLargeError(MAX_HEADER_BYTES)
        most = self._limits.connections
        if self._surplus and len(self.connections) > most:
            return None if self.url.partition(b"?")[0] in PROBES else TooManyConnectionsError(most)
        return None

    def _wait(self, seconds: float) -> None:
        """Wait for the client, at most for this time."""
        self._due = self.loop.time() + seconds
        self._limits.waiting[self] = None
        self._limits.waiting.move_to_end(self)

    def _enforce(self) -> None:
        """Close the connection where its client has used up its time, and look again later.

        Each connection has one timer: starting one for each request would cost more than looking.
        """
        now = self.loop.time()
        if self.transport.is_closing() and self._unsent_at is None:
            self._unsent_at = now
        if self._unsent_at is not None and now >= self._unsent_at + self._limits.send_seconds:
            self.transport.abort()
            return
        limits = self._limits
        later = now + min(
            LINGER_SECONDS, limits.header_seconds, limits.idle_seconds, limits.send_seconds
        )
        if self._due is not None and not self.transport.is_closing():
            if now >= self._due:
                self._give_up()
            else:
                later = min(later, self._due)
        self._timer = self.loop.call_at(later, self._enforce)

    def _give_up(self) -> None:
        """Close the connection of a client that does not go on; say so where it had begun to."""
        self._due = None
        if self._whole and self._unparsed:
            self._refuse(HeaderTimeoutError(self._limits.header_seconds))
        else:
            self.transport.close()

    def _refuse(self, error: RefusalError) -> None:
        """Answer what cannot be taken, once the requests before it are answered, and close."""
        if self._lingering or self.transport.is_closing():
            return
        self._lingering, self._unparsed = True, 0
        if self._whole:  # it is no part of the last request
            waits = self._pending
        elif self.cycle.response_started:
            self.transport.close()  # there is no place for another response
            return
        else:
            self.cycle.disconnected = True  # the app has nothing to send any more
            self.cycle.message_event.set()
            waits = bool(self.pipeline)
            if waits:
                self.pipeline.popleft()
        if waits:
            self._last_answer = error
        else:
            self._answer_and_close(error)

    def _answer_and_close(self, error: RefusalError) -> None:
        """Answer outside of the app, and close once the client had time to read the answer."""
        with correlated([]) as request:
            logger.info("%s", type(error).__name__)
            response = response_of(error, "" if self._whole else self.scope["path"])
            response.headers["X-Request-Id"] = request.request_id
        self.transport.write(self._encode(response))
        self.loop.call_later(1.0, self.transport.close)

    def _encode(self, response: Response) -> bytes:
        headers = [
            *self.server_state.default_headers,
            *(header for header in response.raw_headers if header[0] != b"connection"),
            (b"connection", b"close"),
        ]
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        return b"".join([STATUS_LINE[response.status_code], *lines, b"\r\n", response.body])
