"""Streams of server-sent events: the events as they come, then the result of the call."""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Mapping
from types import TracebackType
from typing import Generic, Self, TypeVar

import httpx

from service.client.calls import Call
from service.client.errors import (
    ConnectionFailed,
    error_of_problem,
    translate_errors,
    unexpected_response,
)
from service.schemas import Problem, StreamEvent

E = TypeVar("E", bound=StreamEvent)
R = TypeVar("R")

END_OF_EVENT = re.compile(rb"\r?\n\r?\n")
FIELD = re.compile(rb"^(event|data): ?(.*?)\r?$", re.MULTILINE)


class EventParser(Generic[E, R]):
    """The events in the bytes of a response, and its result.

    Args:
        call: The call, whose `parse` reads the result.
        kinds: The events by their names; others are passed over.
    """

    def __init__(self, call: Call[R], kinds: Mapping[str, type[E]]) -> None:
        self._call = call
        self._kinds = kinds
        self._rest = b""
        self._results: list[R] = []

    def feed(self, content: bytes, response: httpx.Response) -> Iterator[E]:
        """Yield the events that are complete with these bytes.

        Raises:
            ProblemError: An event is a problem.
            UnexpectedResponse: An event is malformed.
        """
        *events, self._rest = END_OF_EVENT.split(self._rest + content)
        for event in events:
            fields = dict(FIELD.findall(event))
            name, data = fields.get(b"event", b"").decode(), fields.get(b"data", b"")
            try:
                if name == "error":
                    problem = Problem.model_validate_json(data)
                    raise error_of_problem(problem, problem.status)
                if name == "result":
                    self._results.append(self._call.parse(data))
                elif kind := self._kinds.get(name):
                    yield kind.model_validate_json(data)
            except ValueError as error:
                raise unexpected_response(response) from error

    def result(self) -> R:
        """Return the result.

        Raises:
            ConnectionFailed: The stream ended without one.
        """
        if not self._results:
            raise ConnectionFailed("the stream ended before its result; try again")
        return self._results[-1]


class Stream(Generic[E, R]):
    """The events of a call, to iterate over once; `result` is what the call returns.

    The request is sent when iteration begins. The connection is released at the end of the events;
    use `with` to release it where you may stop before.
    """

    def __init__(
        self, base_url: str, parser: EventParser[E, R], open_: Callable[[], httpx.Response]
    ) -> None:
        self._parser = parser
        self._events = self._receive(base_url, open_)

    def __iter__(self) -> Iterator[E]:
        return self._events

    def result(self) -> R:
        """Wait for the end of the stream; return the result.

        Raises:
            ProblemError: The service failed meanwhile.
            ConnectionFailed: The connection ended before, or was closed here.
        """
        for _ in self._events:
            pass
        return self._parser.result()

    def close(self) -> None:
        """Release the connection; the service stops working on the call."""
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _receive(self, base_url: str, open_: Callable[[], httpx.Response]) -> Generator[E]:
        response = open_()
        try:
            with translate_errors(base_url):
                for content in response.iter_bytes():
                    yield from self._parser.feed(content, response)
        finally:
            response.close()


class AsyncStream(Generic[E, R]):
    """`Stream` for asyncio: `async for`, `await stream.result()`, `async with`."""

    def __init__(
        self,
        base_url: str,
        parser: EventParser[E, R],
        open_: Callable[[], Awaitable[httpx.Response]],
    ) -> None:
        self._parser = parser
        self._events = self._receive(base_url, open_)

    def __aiter__(self) -> AsyncGenerator[E]:
        return self._events

    async def result(self) -> R:
        """See `Stream.result`."""
        async for _ in self._events:
            pass
        return self._parser.result()

    async def aclose(self) -> None:
        """See `Stream.close`."""
        await self._events.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _receive(
        self, base_url: str, open_: Callable[[], Awaitable[httpx.Response]]
    ) -> AsyncGenerator[E]:
        response = await open_()
        try:
            with translate_errors(base_url):
                async for content in response.aiter_bytes():
                    for event in self._parser.feed(content, response):
                        yield event
        finally:
            await response.aclose()
