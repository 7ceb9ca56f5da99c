"""The targets of a load: a service through HTTP, or an engine in this process."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from typing import ClassVar, ParamSpec, TypeVar

import aiohttp
import httpx

from benchmarks.rows import Via
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.reading.sampling import Sampling
from gradmem_core.writing.compression import WrittenPage
from service.app import create_app
from service.client import ClientError, ConnectionFailed, calls
from service.client.calls import Call
from service.client.client import TIMEOUT_SECONDS
from service.client.errors import error_of, hide_password
from service.client.options import WriteOptions
from service.client.sessions import find_key_header
from service.engine import Engine
from service.load import LoadFigures, Request, measure_load
from service.settings import Settings
from training.tasks.base import Example

TTL_SECONDS = 3600
"Memories of a benchmark are deleted after an hour."
P = ParamSpec("P")
T = TypeVar("T")


async def run_in(
    process: Executor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Run a module's function in another process."""
    call = partial(function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(process, call)


class Target(ABC):
    """The receiver of a load."""

    via: ClassVar[Via]

    @abstractmethod
    def writes(self, documents: Sequence[Example], *, steps: int) -> list[Request]:
        """Return a WRITE of each document."""

    @abstractmethod
    async def reads(self, documents: Sequence[Example]) -> list[Request]:
        """Write the documents, and return a READ of one query for each."""

    async def load_writers(
        self, documents: Sequence[Example], *, steps: int, concurrency: int, seconds: float
    ) -> LoadFigures:
        """Measure writers that run beside other requests; see `measure_load`."""
        requests = self.writes(documents, steps=steps)
        return await measure_load(requests, concurrency=concurrency, seconds=seconds)


class HttpTarget(Target):
    """The service behind a URL.

    The calls are those of `AsyncClient`, but aiohttp sends them: a request costs it a fifth of the
    CPU time that httpx needs, which the service would lack where both are on the same cores.

    Args:
        url: Base URL of the service.
        elsewhere: A process for writers that run beside other requests. In this one, handling their
            answers would hold up the readers whose latency is measured.
        address: Address to connect from; the service tells clients apart by theirs.
    """

    via = "HTTP"

    def __init__(
        self, url: str, elsewhere: Executor | None = None, *, address: str | None = None
    ) -> None:
        self._url = url.rstrip("/")
        self._elsewhere = elsewhere
        self._http = aiohttp.ClientSession(
            headers=find_key_header(),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
            connector=aiohttp.TCPConnector(
                limit=0, local_addr=None if address is None else (address, 0)
            ),
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._http.close()

    def writes(self, documents: Sequence[Example], *, steps: int) -> list[Request]:
        """See `Target.writes`."""
        return [partial(self._write, document.context, steps) for document in documents]

    async def reads(self, documents: Sequence[Example]) -> list[Request]:
        """See `Target.reads`."""
        return [
            partial(self._read, await self._write(document.context), document.questions[0].query)
            for document in documents
        ]

    async def load_writers(
        self, documents: Sequence[Example], *, steps: int, concurrency: int, seconds: float
    ) -> LoadFigures:
        """See `Target.load_writers`."""
        assert self._elsewhere is not None
        load = partial(load_by_http, self._url, documents, steps=steps)
        return await run_in(self._elsewhere, load, concurrency=concurrency, seconds=seconds)

    async def _write(self, document: str, steps: int | None = None) -> str:
        options: WriteOptions = {"ttl_seconds": TTL_SECONDS}
        if steps is not None:
            options["steps"] = steps
        return (await self._send(calls.write(document, options))).memory_id

    async def _read(self, memory_id: str, query: str) -> None:
        await self._send(calls.read(memory_id, [query], {}))

    async def _send(self, call: Call[T]) -> T:
        """Send a call, once.

        Raises:
            ClientError: It failed.
        """
        content, headers = call.encode()
        url = f"{self._url}{call.path}"
        try:
            async with self._http.request(
                call.method, url, data=content, headers=headers
            ) as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ConnectionFailed(f"no answer from {hide_password(self._url)}") from error
        if response.ok:
            with suppress(ValueError):  # it is not the service's
                return call.parse(body)
        answer = httpx.Response(
            response.status,
            headers=response.headers,
            content=body,
            request=httpx.Request(call.method, url),
        )
        raise error_of(answer)


def load_by_http(
    url: str, documents: Sequence[Example], *, steps: int, concurrency: int, seconds: float
) -> LoadFigures:
    """Measure writers through HTTP in a process of their own.

    Raises:
        ClientError: No request was answered.
    """

    async def load() -> LoadFigures:
        async with aclosing(HttpTarget(url)) as target:
            requests = target.writes(documents, steps=steps)
            return await measure_load(requests, concurrency=concurrency, seconds=seconds)

    try:
        return asyncio.run(load())
    except ClientError as error:  # its subclasses cannot be sent to another process
        raise ClientError(str(error)) from None


class EngineTarget(Target):
    """The engine of a service that runs in this process."""

    via = "in-process"

    def __init__(self, engine: Engine, checkpoint: Checkpoint) -> None:
        self._engine = engine
        self._checkpoint = checkpoint

    @classmethod
    @asynccontextmanager
    async def start(cls, settings: Settings) -> AsyncIterator["EngineTarget"]:
        """Run the engine as the service would start it with these settings."""
        app = create_app(settings)
        async with app.router.lifespan_context(app):
            state = app.state.gradmem
            yield cls(state.engine, state.models.get(None))

    def writes(self, documents: Sequence[Example], *, steps: int) -> list[Request]:
        """See `Target.writes`."""
        return [partial(self._write, document.context, steps) for document in documents]

    async def reads(self, documents: Sequence[Example]) -> list[Request]:
        """See `Target.reads`."""
        config = self._checkpoint.model.config
        sampling = [Sampling(max_new_tokens=config.max_answer_tokens)]
        requests: list[Request] = []
        for number, document in enumerate(documents):
            (page,) = await self._write(document.context, config.write_steps)
            read = partial(
                self._engine.read_pages,
                self._checkpoint,
                page.memory[None],  # (1, m, d)
                # With ids the engine keeps the prefilled memory, as it does for the service.
                [(str(number), "")],
                [self._checkpoint.tokenizer.encode(document.questions[0].query)],
                sampling,
            )
            requests.append(read)
        return requests

    async def _write(self, document: str, steps: int) -> list[WrittenPage]:
        ids = self._checkpoint.tokenizer.encode(document)
        return await self._engine.write_pages(self._checkpoint, [ids], steps)
