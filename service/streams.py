"""Requests whose client may leave, and answers that come bit by bit (server-sent events)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from pydantic import BaseModel

from gradmem_core.errors import GradMemError
from service.errors import problem_of, unexpected
from service.schemas import StreamEvent

T = TypeVar("T")
Tell = Callable[[StreamEvent], None]

EVENT_STREAM = "text/event-stream"
GONE = 499
"nginx's status for a client that left before its answer; nobody receives it."


class ClientGoneError(Exception):
    """The client left before its answer."""


async def while_there(request: Request, work: Awaitable[T]) -> T:
    """Await work, and cancel it when the client leaves.

    Raises:
        ClientGoneError: The client left.
    """
    task = asyncio.ensure_future(work)
    leaving = asyncio.create_task(_left(request))
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


async def event_stream(
    request: Request, work: Callable[[Tell], Awaitable[BaseModel]]
) -> StreamingResponse:
    """Answer with what `work` tells of, each an event by its own name, then with its result.

    What fails before the first event is an ordinary problem; later it is an event `error`.

    Args:
        request: Whose client the events are for; the work is cancelled when it leaves.
        work: Calls its argument with what it tells of, and returns the result.
    """
    queue: asyncio.Queue[StreamEvent | None] = asyncio.Queue()
    task = asyncio.ensure_future(while_there(request, work(queue.put_nowait)))

    def end(ended: asyncio.Task[BaseModel]) -> None:
        queue.put_nowait(None)
        # Asked for here: asyncio prints an error that nobody asks for, and with it its text.
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
            yield _encoded(event.event_name, event)
            event = await queue.get()
        try:
            yield _encoded("result", task.result())
        except GradMemError as error:
            yield _encoded("error", problem_of(error))
        except ClientGoneError:
            return
        except Exception as error:  # whatever it is, the client is told that there was one
            yield _encoded("error", unexpected(error))
    finally:
        task.cancel()


def _encoded(name: str, data: BaseModel) -> bytes:
    return format_sse_event(data_str=data.model_dump_json(), event=name)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
