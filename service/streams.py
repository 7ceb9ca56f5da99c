"""Cancel work whose client has left, and stream results as server-sent events."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from service.app_state import state_of
from service.cancelling import run_until
from service.errors import problem_of
from service.middleware import OUTCOME
from service.schemas import StreamEvent
from service.waiting import WaitingRequests

T = TypeVar("T")
Emit = Callable[[StreamEvent], None]

EVENT_STREAM = "text/event-stream"
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"Headers that keep caches from storing a stream, and nginx from holding it back."
EVENT_SCHEMA = {
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"content": {EVENT_STREAM: {"itemSchema": EVENT_SCHEMA}}}
}
"The OpenAPI entry of a stream, as version 3.2 has it and FastAPI writes it in 3.1."
CLIENT_CLOSED_REQUEST = 499
"nginx's status for a client that left before the response; it only appears in metrics and logs."


class ClientGoneError(HTTPException):
    """The client left before the response."""

    def __init__(self) -> None:
        super().__init__(CLIENT_CLOSED_REQUEST, "Client Closed Request")


class EventResponse(StreamingResponse):
    """A stream whose work notices itself that the client has left.

    Starlette would listen for that as well, and cancel the stream before its outcome is noted.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the stream."""
        await self.stream_response(send)


async def run_while_connected(request: Request, work: Awaitable[T]) -> T:
    """Await work, and cancel it when the client leaves.

    Raises:
        ClientGoneError: The client left.
    """
    return await run_until(work, _wait_for_disconnect(request), ClientGoneError())


async def stream_events(
    request: Request, work: Callable[[Emit], Awaitable[BaseModel]]
) -> EventResponse:
    """Respond with the events that `work` emits, then with its result as the event `result`.

    A failure before the first event is an ordinary response; later it is an event `error`.

    Args:
        request: The request; the work is cancelled when its client leaves.
        work: Emits events with its argument, and returns the result.

    Raises:
        Exception: Raised by the work before its first event.
    """
    queue: asyncio.Queue[StreamEvent | None] = asyncio.Queue()
    task = asyncio.create_task(run_while_connected(request, work(queue.put_nowait)))

    def end(ended: asyncio.Task[BaseModel]) -> None:
        queue.put_nowait(None)
        # Retrieved here: asyncio logs an error that nobody retrieves, and with it its text.
        if not ended.cancelled():
            ended.exception()

    task.add_done_callback(end)
    try:
        first = await queue.get()
    except asyncio.CancelledError:
        task.cancel()
        raise
    if first is None and (task.cancelled() or task.exception()):
        task.result()
    return EventResponse(
        _events(request, first, queue, task), media_type=EVENT_STREAM, headers=STREAM_HEADERS
    )


async def _events(
    request: Request,
    first: StreamEvent | None,
    queue: asyncio.Queue[StreamEvent | None],
    task: asyncio.Task[BaseModel],
) -> AsyncIterator[bytes]:
    waiting = state_of(request).waiting
    waiting.add(task)
    event = first
    try:
        while event is not None:
            yield _encode(event.event_name, event)
            event = await queue.get()
        # On another thread: a result may be as large as the document was.
        yield await asyncio.to_thread(_encode, "result", _result_of(task, waiting))
    except ClientGoneError:
        _note_outcome(request, CLIENT_CLOSED_REQUEST)
    except Exception as error:  # any error at all has to reach the client
        problem = problem_of(error)
        _note_outcome(request, problem.status)
        yield _encode("error", problem)
    finally:
        waiting.discard(task)
        task.cancel()


def _result_of(task: asyncio.Task[T], waiting: WaitingRequests) -> T:
    """Return the result of a task that is done, or raise its error."""
    if not task.cancelled():
        return task.result()
    if waiting.ended:
        raise waiting.error
    raise RuntimeError("cancelled from within")


def _note_outcome(request: Request, status: int) -> None:
    """Note for metrics and log that a stream, which began with 200, ended otherwise."""
    request.scope.setdefault("state", {})[OUTCOME] = status


def _encode(name: str, data: BaseModel) -> bytes:
    return format_sse_event(data_str=data.model_dump_json(), event=name)


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
