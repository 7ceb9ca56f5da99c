"""The service through HTTP."""

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx

from benchmarks.serving.documents import Document
from benchmarks.serving.load import Request
from benchmarks.serving.results import Load, Via
from service.client import AsyncClient

TTL_SECONDS = 3600
"Memories of a benchmark are deleted after an hour."


class Clients:
    """The project's own client, one for each request under way.

    A client's pool of connections is searched for every request and holds 100 at most; a client
    with one connection has neither cost nor limit.

    Args:
        url: Base URL of the service.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._trust = ssl.create_default_context()  # reading the certificates takes long
        self._idle: list[AsyncClient] = []

    @asynccontextmanager
    async def one(self) -> AsyncIterator[AsyncClient]:
        """A client that nobody else uses meanwhile."""
        client = self._idle.pop() if self._idle else self._new()
        try:
            yield client
        finally:
            self._idle.append(client)

    def _new(self) -> AsyncClient:
        transport = httpx.AsyncHTTPTransport(verify=self._trust)
        return AsyncClient(self._url, transport=transport)

    async def aclose(self) -> None:
        """Close every connection."""
        while self._idle:
            await self._idle.pop().aclose()


class HttpTarget:
    """The service behind a URL."""

    via: Via = "HTTP"

    def __init__(self, url: str, clients: Clients) -> None:
        self._url = url
        self._clients = clients

    def writes(self, documents: Sequence[Document], *, steps: int) -> list[Request]:
        """See `Target.writes`."""

        def request(document: Document) -> Request:
            async def write() -> None:
                async with self._clients.one() as client:
                    await client.write(document.text, steps=steps, ttl_seconds=TTL_SECONDS)

            return write

        return [request(document) for document in documents]

    async def reads(self, documents: Sequence[Document]) -> list[Request]:
        """See `Target.reads`."""

        def request(memory_id: str, query: str) -> Request:
            async def read() -> None:
                async with self._clients.one() as client:
                    await client.read(memory_id, query)

            return read

        async with self._clients.one() as client:
            return [
                request(
                    (await client.write(one.text, ttl_seconds=TTL_SECONDS)).memory_id,
                    one.queries[0],
                )
                for one in documents
            ]

    @asynccontextmanager
    async def saturated(
        self, documents: Sequence[Document], *, steps: int, concurrency: int, warm_up: float
    ) -> AsyncIterator[list[Load]]:
        """See `Target.saturated`. The writers are a process of their own.

        In this one, handling their answers would hold up the readers whose latency is measured.
        """
        loads: list[Load] = []
        order = {
            "url": self._url,
            "texts": [document.text for document in documents],
            "steps": steps,
            "concurrency": concurrency,
            "warm_up": warm_up,
        }
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.serving.writers"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps(order).encode() + b"\n")
            await child.stdout.readline()  # the warm-up is over
            yield loads
        finally:
            child.stdin.close()
            answer = await child.stdout.read()
            await child.wait()
        loads.append(Load.model_validate_json(answer))
