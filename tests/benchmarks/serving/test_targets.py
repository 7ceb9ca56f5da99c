"""A service as the target of a load: its answers, and its errors in the client's terms."""

from contextlib import aclosing

import pytest

from benchmarks.serving.documents import draw_documents
from benchmarks.serving.targets import HttpTarget
from service.client import ConnectionFailed, InvalidRequest, NotFound

pytestmark = pytest.mark.anyio
DOCUMENTS = draw_documents(2, pairs=2, seed=1)


async def test_documents_are_written_and_read(base_url: str) -> None:
    async with aclosing(HttpTarget(f"{base_url}/", address="127.0.0.2")) as target:
        for request in [*target.writes(DOCUMENTS, steps=1), *await target.reads(DOCUMENTS)]:
            await request()


async def test_errors_are_those_of_the_client(base_url: str) -> None:
    async with aclosing(HttpTarget(base_url)) as target:
        with pytest.raises(NotFound, match="no memory"):
            await target._read("0" * 32, "?!aB:")
        with pytest.raises(InvalidRequest, match="greater than or equal to 1"):
            await target._write("!aB:7x!|", steps=0)


async def test_a_service_that_is_gone_is_said_to_be() -> None:
    async with aclosing(HttpTarget("http://127.0.0.1:9")) as target:  # nobody listens there
        with pytest.raises(ConnectionFailed, match=r"no answer from http://127\.0\.0\.1:9"):
            await target._read("0" * 32, "?!aB:")
