"""Random requests never fail, and are answered as the OpenAPI document says: the short form."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import Response
from fastapi.responses import JSONResponse

from benchmarks.fuzz.command import store_key
from benchmarks.fuzz.fuzzer import Fuzzer
from gradmem_core.checkpoints.checkpoint import Checkpoint
from service.app import create_app
from service.models import Models
from service.settings import Settings
from tests.service.conftest import TASK, running
from tests.service.conftest import tiny as tiny
from tests.service.conftest import tiny_folder as tiny_folder

REQUESTS = 300


@pytest.fixture
def fuzzer(tiny: Checkpoint, tmp_path: Path) -> Iterator[Fuzzer]:
    url = f"sqlite:///{tmp_path}/memories.db"
    key = asyncio.run(store_key(url))
    with running(create_app(Settings(store_url=url, threads=1), models=Models([tiny]))) as base:
        yield Fuzzer(base, key, TASK.example_document, TASK.example_query, seed=1, report=print)


@pytest.mark.slow
def test_no_answer_is_a_failure_or_undocumented(fuzzer: Fuzzer) -> None:
    rows = list(fuzzer.run(REQUESTS))
    assert sum(row.requests for row in rows) > REQUESTS / 2
    assert sum(row.succeeded for row in rows) > 0
    assert [row.route for row in rows if row.failed or row.violations] == []


@pytest.mark.slow
def test_failures_and_undocumented_answers_are_found(
    tiny: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/memories.db"
    key = asyncio.run(store_key(url))
    app = create_app(Settings(store_url=url, threads=1), models=Models([tiny]))

    @app.get("/failing", responses={500: {"description": "Always."}})
    def fail() -> Response:
        return JSONResponse({}, status_code=500)

    @app.get("/undocumented", response_model=dict[str, int])
    def answer() -> Response:
        return JSONResponse({"count": "many"})

    with running(app) as base:
        fuzzer = Fuzzer(base, key, TASK.example_document, TASK.example_query, seed=1, report=print)
        rows = {row.route: row for row in fuzzer.run(1)}
    assert rows["GET /failing"].failed > 0
    assert rows["GET /undocumented"].violations > 0
    assert "many" in capsys.readouterr().out
