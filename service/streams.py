"""Cancel work whose client has left, and stream results as server-sent events."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from gradmem_core.errors import GradMemError
from service.errors import problem_of
from service.schemas import StreamEvent

T = TypeVar("T")
Emit = Callable[[StreamEvent], None]

EVENT_STREAM = "text/event-stream"
CLIENT_CLOSED_REQUEST = 499
"nginx's status for a client that left before the response; it only appears in metrics and logs."


class ClientGoneError(HTTPException):
    """The client left before the response."""

    def __init__(self) -> None:
        super().__init__(CLIENT_CLOSED_REQUEST, "Client Closed Request")


async def run_while_connected(request: Request, work: Awaitable[T]) -> T:
    """Await work, and cancel it when the client leaves.

    Raises:
        ClientGoneError: The client left.
    """
    task = asyncio.ensure_future(work)
    leaving = asyncio.create_task(_wait_for_disconnect(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        leaving.cancel()
        task.cancel()
        with suppress(asyncio.CancelledError, GradMemError):
            await task


async def stream_events(
    request: Request, work: Callable[[Emit], Awaitable[BaseModel]]
) -> StreamingResponse:
    """Respond with the events that `work` emits, then with its result as the event `result`.

    A failure before the first event is an ordinary response; later it is an event `error`.

    Args:
        request: The request; the work is cancelled when its client leaves.
        work: Emits events with its argument, and returns the result.

    Raises:
        Exception: Raised by the work before its first event.
    """
    queue: asyncio.Queue[StreamEvent | None] = asyncio.Queue()
    task = asyncio.ensure_future(run_while_connected(request, work(queue.put_nowait)))

    def end(ended: asyncio.Task[BaseModel]) -> None:
        queue.put_nowait(None)
        # Retrieved here: asyncio logs an error that nobody retrieves, and with it its text.
        if not ended.cancelled():
            ended.exception()

    task.add_done_callback(end)
    first = await queue.get()
    if first is None and (task.cancelled() or task.exception()):
        task.result()
    return StreamingResponse(_events(first, queue, task), media_type=EVENT_STREAM)


async def _events(
    first: StreamEvent | None,
    queue: asyncio.Queue[StreamEvent | None],
    task: asyncio.Task[BaseModel],
) -> AsyncIterator[bytes]:
    event = first
    try:
        while event is not None:
            yield _encode(event.event_name, event)
            event = await queue.get()
        try:
            yield _encode("result", task.result())
        except ClientGoneError:
            return
        except Exception as error:  # any error at all has to reach the client
            yield _encode("error", problem_of(error))
    finally:
        task.cancel()


def _encode(name: str, data: BaseModel) -> bytes:
    return format_sse_event(data_str=data.model_dump_json(), event=name)


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
