"""`Session` and `AsyncSession` send calls: base URL, key, retries, and errors in our terms."""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Protocol, TypedDict, TypeVar

import httpx

from service.client.calls import Call
from service.client.errors import ClientError, InvalidKey, error_of, translate_errors
from service.client.retries import Attempts
from service.client.streams import AsyncStream, E, EventParser, R, Stream

DEFAULT_URL = "http://127.0.0.1:8080"
CONNECT_SECONDS = 10.0
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Part(Protocol):
    """A part of what a call concerns."""

    next_cursor: str | None
    "Cursor of the call that gets the next part; None in the last."


T = TypeVar("T")
P = TypeVar("P", bound=Part)


class _HttpOptions(TypedDict):
    base_url: httpx.URL
    headers: dict[str, str]
    timeout: httpx.Timeout
    trust_env: bool


def _find_url(base_url: str | None) -> str:
    """Return a base URL: the one given, or GRADMEM_URL of the environment, or DEFAULT_URL."""
    return base_url or os.environ.get("GRADMEM_URL") or DEFAULT_URL


def find_key_header(key: str | None = None) -> dict[str, str]:
    """Return the header with a key, or with GRADMEM_KEY of the environment; empty without.

    Raises:
        InvalidKey: It is no text that a header can hold.
    """
    if key is None:
        key = os.environ.get("GRADMEM_KEY")
    if not key:
        return {}
    if not re.fullmatch(r"[!-~]+", key):
        raise InvalidKey("the key has spaces or other characters that no key has; copy it again")
    return {"Authorization": f"Bearer {key}"}


def _http_options(base_url: str, key: str | None, timeout_seconds: float | None) -> _HttpOptions:
    with translate_errors(base_url):
        url = httpx.URL(base_url)
    return _HttpOptions(
        base_url=url,
        headers=find_key_header(key),
        timeout=httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS),
        trust_env=url.host not in LOOPBACK,  # no proxy to reach this machine
    )


class Session:
    """Sends calls; see `Client` for the arguments."""

    def __init__(
        self,
        base_url: str | None,
        key: str | None,
        timeout_seconds: float | None,
        max_retries: int,
        transport: httpx.BaseTransport | None,
    ) -> None:
        self.base_url = _find_url(base_url)
        self._max_retries = max_retries
        self._http = httpx.Client(
            **_http_options(self.base_url, key, timeout_seconds), transport=transport
        )

    def send(self, call: Call[T], *, retry: bool = True) -> T:
        """Send a call and return its result.

        Raises:
            ClientError: There is none.
        """
        return call.parse_response(self._open(call, retry=retry))

    def send_in_parts(self, make_call: Callable[[str | None], Call[P]]) -> Iterator[P]:
        """Send a call again and again, until its last part; yield the results.

        Args:
            make_call: Returns the call for a cursor, None for the first part.
        """
        cursor = None
        while True:
            part = self.send(make_call(cursor))
            yield part
            cursor = part.next_cursor
            if cursor is None:
                return

    def stream(self, call: Call[R], kinds: Mapping[str, type[E]]) -> Stream[E, R]:
        """Return the stream of a call that asks for one; `kinds` are its events by name."""
        parser = EventParser(call, kinds)
        return Stream(self.base_url, parser, lambda: self._open(call, stream=True))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _open(self, call: Call[T], *, stream: bool = False, retry: bool = True) -> httpx.Response:
        """Return the response to a call, a success; with `stream`, its body is yet to be read."""
        attempts = Attempts(call, self._max_retries if retry else 0)
        while True:
            try:
                with translate_errors(self.base_url):
                    response = self._http.send(call.build_request(self._http), stream=stream)
                    if attempts.accept(response):
                        return response
                    response.read()
                raise error_of(response)
            except ClientError as error:
                time.sleep(attempts.pause_after(error))


class AsyncSession:
    """`Session` for asyncio."""

    def __init__(
        self,
        base_url: str | None,
        key: str | None,
        timeout_seconds: float | None,
        max_retries: int,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        self.base_url = _find_url(base_url)
        self._max_retries = max_retries
        self._http = httpx.AsyncClient(
            **_http_options(self.base_url, key, timeout_seconds), transport=transport
        )

    async def send(self, call: Call[T], *, retry: bool = True) -> T:
        """See `Session.send`."""
        return call.parse_response(await self._open(call, retry=retry))

    async def send_in_parts(self, make_call: Callable[[str | None], Call[P]]) -> AsyncIterator[P]:
        """See `Session.send_in_parts`."""
        cursor = None
        while True:
            part = await self.send(make_call(cursor))
            yield part
            cursor = part.next_cursor
            if cursor is None:
                return

    def stream(self, call: Call[R], kinds: Mapping[str, type[E]]) -> AsyncStream[E, R]:
        """See `Session.stream`."""
        parser = EventParser(call, kinds)
        return AsyncStream(self.base_url, parser, lambda: self._open(call, stream=True))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _open(
        self, call: Call[T], *, stream: bool = False, retry: bool = True
    ) -> httpx.Response:
        attempts = Attempts(call, self._max_retries if retry else 0)
        while True:
            try:
                with translate_errors(self.base_url):
                    response = await self._http.send(call.build_request(self._http), stream=stream)
                    if attempts.accept(response):
                        return response
                    await response.aread()
                raise error_of(response)
            except ClientError as error:
                await asyncio.sleep(attempts.pause_after(error))
