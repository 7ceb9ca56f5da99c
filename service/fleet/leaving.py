"""Tell the app that a client has left, where Ray only cancels the request."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

DISCONNECT: Message = {"type": "http.disconnect"}


class LeaveGate:
    """Middleware that turns the cancellation of a request into the news that its client has left.

    The app then ends by itself, as it does for uvicorn: it frees the request's place, and counts
    and logs it as what it is.

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
        left = asyncio.Event()

        async def receive_until_left() -> Message:
            receiving, leaving = (
                asyncio.ensure_future(receive()),
                asyncio.ensure_future(left.wait()),
            )
            try:
                await asyncio.wait({receiving, leaving}, return_when=asyncio.FIRST_COMPLETED)
                return receiving.result() if receiving.done() else DISCONNECT
            finally:
                receiving.cancel()
                leaving.cancel()

        task = asyncio.ensure_future(self.app(scope, receive_until_left, send))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            left.set()
            await task
            raise
