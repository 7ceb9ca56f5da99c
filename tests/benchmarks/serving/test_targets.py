"""A service as the target of a load: its answers, and its errors in the client's terms."""

from contextlib import aclosing

import pytest
from fastapi import FastAPI, Request, Response

from benchmarks.serving.documents import draw_documents
from benchmarks.serving.targets import HttpTarget
from service.client import (
    ConnectionFailed,
    InvalidRequest,
    NotFound,
    Overloaded,
    Unavailable,
    UnexpectedResponse,
)
from service.schemas import Problem
from tests.service.conftest import running

pytestmark = pytest.mark.anyio
PROBLEM = Problem(type="about:blank", title="", status=429, detail="")
DOCUMENTS = draw_documents(2, pairs=2, seed=1)


async def test_documents_are_written_and_read(base_url: str) -> None:
    async with aclosing(HttpTarget(base_url)) as target:
        for request in [*target.writes(DOCUMENTS, steps=1), *await target.reads(DOCUMENTS)]:
            await request()


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (429, PROBLEM.model_dump_json(), Overloaded),
        (503, PROBLEM.model_dump_json(), Unavailable),
        (502, "<p>Bad Gateway</p>", UnexpectedResponse),
        (200, "<p>Hello</p>", UnexpectedResponse),
    ],
    ids=["429", "503", "502", "200"],
)
async def test_every_answer_is_a_result_or_an_error_of_the_client(
    status: int,
    body: str,
    error: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[str | None, str | None]] = []
    app = FastAPI()

    @app.post("/read")
    def answer(request: Request) -> Response:
        seen.append((request.client and request.client.host, request.headers.get("authorization")))
        return Response(body, status, media_type="application/problem+json")

    monkeypatch.setenv("GRADMEM_KEY", "a-key")
    with running(app) as url:
        async with aclosing(HttpTarget(f"{url}/", address="127.0.0.2")) as target:
            with pytest.raises(error):
                await target._read("0" * 32, "?!aB:")
    assert seen == [("127.0.0.2", "Bearer a-key")]


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
