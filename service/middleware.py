"""The middleware around every route: the limit of bodies, metrics and the access log."""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BodyTooLargeError, response_of
from service.telemetry import Telemetry

access_log = logging.getLogger("gradmem.access")


class BodyLimit:
    """Middleware that answers 413 to a body larger than the limit, without reading all of it.

    Args:
        app: The app inside; it turns BodyTooLargeError into a response.
        limit: Largest body, in bytes.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, counting the bytes of its body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if (declared := _declared_length(scope)) > self.limit:
            response = response_of(BodyTooLargeError(declared, self.limit))
            await response(scope, receive, send)
            return
        received = 0

        async def receive_and_count() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
                raise BodyTooLargeError(received, self.limit)
            return message

        await self.app(scope, receive_and_count, send)


class RequestObserver:
    """Middleware that counts and logs requests by their route's template: paths hold memory ids.

    It also answers unforeseen errors with 500: the server would print such an error with its text,
    which may hold a document.

    Args:
        app: The app inside.
        telemetry: Metrics of the requests.
    """

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self.app = app
        self.telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, observing its status and time."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 0  # until a response begins
        started = time.perf_counter()

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        except Exception as error:
            response = response_of(error)
            if status == 0:
                await response(scope, receive, send_and_note)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "unknown")
            self.telemetry.count_request(_method_label(scope["method"]), route, status, seconds)
            access_log.info("%s %s %d %.1f ms", scope["method"], route, status, seconds * 1000)


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


def _method_label(method: str) -> str:
    """Return the method, or `other` for one that a client invented: metrics keep every label."""
    return method if method in ("GET", "POST", "DELETE", "HEAD", "OPTIONS") else "other"
