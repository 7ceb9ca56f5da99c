"""The middleware around every route: metrics, the access log, and what is refused unread."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.correlation import Correlation, correlated
from service.errors import response_of
from service.log import FIELDS
from service.refusals import BodyTooLargeError, HostRefusedError, RefusalError
from service.telemetry import Telemetry
from service.waiting import WaitingRequests

access_log = logging.getLogger("gradmem.access")

KNOWN_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
REFUSAL = "gradmem.refusal"
"Key of a request's scope: the error with which the connection already refuses it."
OUTCOME = "gradmem.outcome"
"Key of a request's state: the status that a stream ended with, which began with 200."


class RequestObserver:
    """Middleware that answers every request, counts and logs it.

    Metrics and log name routes by their template: paths hold memory ids. Unforeseen errors are
    answered with 500: the server would print such an error with its text, which may hold a
    document. Requests that the service stops are answered with 503.

    Args:
        app: The app inside.
        telemetry: Metrics of the requests.
        waiting: The requests to end when the service stops.
    """

    def __init__(self, app: ASGIApp, telemetry: Telemetry, waiting: WaitingRequests) -> None:
        self.app = app
        self.telemetry = telemetry
        self.waiting = waiting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, observing its status and time."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with correlated(scope["headers"]) as request, self.telemetry.trace_request(request):
            await self._answer(request, scope, receive, send)

    async def _answer(
        self, request: Correlation, scope: Scope, receive: Receive, send: Send
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        status = 0  # until a response begins
        started = time.perf_counter()

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self.waiting.discard(task)
                header = (b"x-request-id", request.request_id.encode())
                message = {**message, "headers": [*message.get("headers", []), header]}
            await send(message)

        self.waiting.add(task)
        try:
            await self.app(scope, receive, send_and_note)
        except (Exception, asyncio.CancelledError) as error:
            self.waiting.discard(task)
            response = response_of(self._cause(task, error), scope["path"])
            if status == 0:
                await response(scope, receive, send_and_note)
            else:
                scope.setdefault("state", {})[OUTCOME] = response.status_code
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "unknown")
            status = scope.get("state", {}).get(OUTCOME, status)
            method = _method_label(scope["method"])
            self.telemetry.count_request(method, route, status, seconds)
            _log_access(method, route, status, seconds)

    def _cause(self, task: "asyncio.Task[None]", error: BaseException) -> Exception:
        """Return the error to answer with; a task that was cancelled goes on to answer."""
        if isinstance(error, Exception):
            return error
        task.uncancel()
        if self.waiting.ended:
            return self.waiting.error
        return RuntimeError("cancelled from within").with_traceback(error.__traceback__)


class RequestGate:
    """Middleware that refuses requests by their size, host or connection before reading them.

    It also answers HEAD where there is GET: the server leaves the body out.

    Args:
        app: The app inside; it turns RefusalError into a response.
        body_limit: Returns the largest body of a request of a method and a path, in bytes.
        hosts: Names of hosts to answer for, `*.NAME` for all below one; empty for any.
    """

    def __init__(
        self, app: ASGIApp, body_limit: Callable[[str, str], int], hosts: Sequence[str]
    ) -> None:
        self.app = app
        self.body_limit = body_limit
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, counting the bytes of its body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.body_limit(scope["method"], scope["path"])
        if refusal := self._refusal(scope, limit):
            await response_of(refusal, scope["path"])(scope, receive, send)
            return
        received = 0

        async def receive_and_count() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise BodyTooLargeError(received, limit)
            return message

        if scope["method"] != "HEAD":
            await self.app(scope, receive_and_count, send)
            return
        inner = {**scope, "method": "GET"}
        try:
            await self.app(inner, receive_and_count, send)
        finally:
            scope["route"] = inner.get("route")

    def _refusal(self, scope: Scope, limit: int) -> RefusalError | None:
        refusal: RefusalError | None = scope.get(REFUSAL)
        if refusal is None and self.hosts and not self._is_allowed(_header(scope, b"host")):
            refusal = HostRefusedError()
        declared = _header(scope, b"content-length")
        if refusal is None and declared.isdigit() and int(declared) > limit:
            refusal = BodyTooLargeError(int(declared), limit)
        return refusal

    def _is_allowed(self, header: bytes) -> bool:
        try:
            name = urlsplit(f"//{header.decode()}").hostname
        except ValueError:
            return False
        return name is not None and any(
            name == host or (host.startswith("*.") and name.endswith(host[1:]))
            for host in self.hosts
        )


def _log_access(method: str, route: str, status: int, seconds: float) -> None:
    fields = {"method": method, "route": route, "status": status, "seconds": round(seconds, 4)}
    access_log.info(
        "%s %s %d %.1f ms", method, route, status, seconds * 1000, extra={FIELDS: fields}
    )


def _header(scope: Scope, wanted: bytes) -> bytes:
    """Return the value of a header, empty where there is none."""
    value: bytes
    for name, value in scope["headers"]:
        if name == wanted:
            return value
    return b""


def _method_label(method: str) -> str:
    """Return the method, or `other` for one that a client invented: metrics keep every label."""
    return method if method in KNOWN_METHODS else "other"
