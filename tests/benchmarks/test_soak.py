"""The short form of `gradmem-bench soak`, and its command."""

import asyncio
import os
from pathlib import Path

import pytest

from benchmarks.reliability_rows import Soak
from benchmarks.serving.documents import draw_documents
from benchmarks.serving.process import RunningService
from benchmarks.soak import traffic as soak_traffic
from benchmarks.soak.command import DATABASE, size_of_files
from benchmarks.soak.measurement import measure_part
from benchmarks.soak.traffic import Traffic
from gradmem_core.checkpoints.checkpoint import Checkpoint
from service.app import create_app
from service.models import Models
from service.settings import Settings
from tests.benchmarks.commands import measure_rows
from tests.service.conftest import running
from tests.service.conftest import tiny as tiny
from tests.service.conftest import tiny_folder as tiny_folder


def test_memories_come_and_go_and_every_request_is_answered(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak_traffic, "KEPT", 3)
    url = f"sqlite:///{tmp_path}/{DATABASE}"
    with running(create_app(Settings(store_url=url, threads=1), models=Models([tiny]))) as base:
        traffic = Traffic(base, draw_documents(4, pairs=2, seed=1), rate=50, seed=1)
        row = asyncio.run(
            measure_part(
                traffic,
                RunningService(base, os.getpid()),
                lambda: size_of_files(tmp_path),
                store="sqlite",
                part=1,
                seconds=2,
            )
        )
    assert row.failed == 0
    assert row.requests > 20
    assert None not in (row.write, row.read, row.list, row.delete)
    assert min(row.resident_bytes, row.open_files, row.process_threads, row.store_bytes) > 0


@pytest.mark.slow
def test_the_long_form_shows_ten_parts(tiny_folder: Path) -> None:
    rows = measure_rows(
        *(Soak, "soak", "--checkpoint", tiny_folder, "--only", "redis"),
        *("--seconds", 4, "--rate", 50, "--pairs", 2),
    )
    assert [row.part for row in rows] == list(range(1, 11))
    assert sum(row.failed for row in rows) == 0
