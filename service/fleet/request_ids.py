"""Leave out of responses what Ray's proxy adds to them."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = b"x-request-id"


class OneRequestId:
    """Middleware by which a response has its `X-Request-Id` once.

    Ray's proxy gives an id to each request that has none, and adds the id of the request to its
    response. The app takes the same id, unless it is unsafe in a log: then the response has both,
    the app's own, which is in the log, and the client's.

    Args:
        app: The app inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        added = {header for header in scope["headers"] if header[0] == REQUEST_ID}

        async def send_without_added(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [header for header in message["headers"] if tuple(header) not in added]
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, receive, send_without_added)
