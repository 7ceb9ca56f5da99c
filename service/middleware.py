"""What surrounds every route: the body's limit, metrics and the access log."""

import logging
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BODY_TOO_LARGE, response_of, unexpected
from service.schemas import Problem
from service.telemetry import Telemetry

access_log = logging.getLogger("gradmem.access")


class BodyTooLargeError(HTTPException):
    """The body passed the limit while it arrived.

    FastAPI answers 400 to any error in reading a body, except to those of this base class.

    Args:
        size: Bytes that were declared, or that had come when it was refused.
        limit: Largest body, in bytes.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(BODY_TOO_LARGE.status)
        self.size = size
        self.limit = limit

    def problem(self) -> Problem:
        """Describe it."""
        return Problem(
            type=BODY_TOO_LARGE.type,
            title=BODY_TOO_LARGE.title,
            status=BODY_TOO_LARGE.status,
            detail=f"the request body has {self.size} or more bytes and at most {self.limit} are"
            " taken (GRADMEM_MAX_BODY_BYTES); send a smaller one",
            limit=self.limit,
        )


class BodyLimit:
    """Answers 413 to a request whose body is larger than the limit, without reading it all.

    Args:
        app: What it surrounds; it turns BodyTooLargeError into a response.
        limit: Largest body, in bytes.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, counting its body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if (declared := _declared_length(scope)) > self.limit:
            refusal = response_of(BodyTooLargeError(declared, self.limit).problem())
            await refusal(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
                raise BodyTooLargeError(received, self.limit)
            return message

        await self.app(scope, counted, send)


class Observed:
    """Counts and logs every request by its route's template: paths hold memory ids.

    It also answers what nobody foresaw with 500. Left to the server, such an error would be
    printed with its text, which may hold a document; its place in the code does not.

    Args:
        app: What it surrounds.
        telemetry: Where requests are counted.
    """

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self.app = app
        self.telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, noting its status and time."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 0  # until an answer begins
        started = time.perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception as error:
            problem = unexpected(error)
            if status == 0:
                await response_of(problem)(scope, receive, noted)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "unknown")
            self.telemetry.request(_known(scope["method"]), route, status, seconds)
            access_log.info("%s %s %d %.1f ms", scope["method"], route, status, seconds * 1000)


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


def _known(method: str) -> str:
    """The method, or `other`: labels must not be the client's to invent."""
    return method if method in ("GET", "POST", "DELETE", "HEAD", "OPTIONS") else "other"
