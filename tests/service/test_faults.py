"""Nothing that was acknowledged is lost: the short form of `gradmem-bench faults`."""

import asyncio
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.command import make_command
from benchmarks.faults.command import measure_faults
from benchmarks.faults.faults import FAULTS
from benchmarks.faults.measurement import measure_redis_fault
from benchmarks.faults.redis_server import APPEND_ONLY, RedisServer
from benchmarks.reliability_rows import Fault
from benchmarks.results import load_result, rows_of
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import MemoryNotFoundError
from gradmem_core.tenants import DEFAULT_TENANT
from service.app import create_app
from service.models import Models
from service.settings import Settings
from service.stores import create_store, redis_client
from tests.service.conftest import Serving

DOCUMENTS = ["!aB:7x!!kk:Q3!|", "!0z:mN!!kk:8s!|", "!Ab:cD!|"]
KILLS = 3
WRITER = """
import asyncio, sys
from datetime import datetime, UTC
from service.stores import StoredMemory, create_store, new_memory_id

async def write_for_ever(store):
    while True:
        memory = StoredMemory(
            memory_id=new_memory_id(),
            model="tiny",
            blob=bytes(30_000),
            metadata={},
            created_at=datetime.now(UTC),
        )
        await store.put(memory)
        print("put", memory.memory_id, flush=True)
        if memory.memory_id < "4":
            await store.delete(memory.tenant, memory.memory_id)
            print("deleted", memory.memory_id, flush=True)

async def main():
    async with create_store(sys.argv[1]) as store:
        await asyncio.gather(*(write_for_ever(store) for _ in range(4)))

asyncio.run(main())
"""
"Writes memories, deletes a quarter of them, and prints what the store has acknowledged."


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis with an append-only file."""
    with RedisServer(tmp_path, APPEND_ONLY) as running:
        yield running


def expect_no_loss(row: Fault) -> None:
    assert row.acknowledged > 0
    losses = (row.lost, row.wrong, row.undeleted, row.unanswered)
    assert losses == (0, 0, 0, 0), row


def test_faults_of_redis_lose_nothing(
    settings: Settings,
    tiny: Checkpoint,
    serving: Serving,
    server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_client, "SOCKET_SECONDS", 0.3)
    app = create_app(settings.model_copy(update={"store_url": server.url}), models=Models([tiny]))
    refused = {}
    with serving(app) as url:
        for name in FAULTS:
            measuring = measure_redis_fault(url, server, name, DOCUMENTS, seconds=0.3, workers=4)
            row = asyncio.run(measuring)
            expect_no_loss(row)
            assert row.cut == 0  # every request is answered, whatever became of the store
            refused[name] = row.refused
    assert all(refused[name] for name in ("Redis killed", "Redis out of memory"))


def test_a_killed_process_loses_nothing_of_its_sqlite_file(tmp_path: Path) -> None:
    url, moments = f"sqlite:///{tmp_path}/memories.db", random.Random(1)
    ledger: set[str] = set()
    for _ in range(KILLS):
        command = [sys.executable, "-c", WRITER, url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(moments.randrange(1, 60)):
                line = writer.stdout.readline()
                assert line, "the writer ended by itself"
                ledger.add(line.strip())
            writer.kill()
            ledger.update(line.strip() for line in writer.stdout if line.endswith("\n"))
    asyncio.run(expect_entries(url, ledger))


async def expect_entries(url: str, ledger: set[str]) -> None:
    deleted = {line.split()[1] for line in ledger if line.startswith("deleted")}
    put = {line.split()[1] for line in ledger if line.startswith("put")}
    async with create_store(url) as store:
        for memory_id in deleted:
            with pytest.raises(MemoryNotFoundError):
                await store.get(DEFAULT_TENANT, memory_id)
        for memory_id in put - deleted:
            try:
                memory = await store.get(DEFAULT_TENANT, memory_id)
            except MemoryNotFoundError:
                # Its deletion may have been done and not been told any more.
                assert memory_id < "4"
            else:
                assert memory.blob == bytes(30_000)


@pytest.mark.slow
def test_the_long_form_kills_the_service(tiny_folder: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(make_command(measure_faults))
    options = ["--checkpoint", str(tiny_folder), "--only", "sqlite", "--kills", "1", "--pairs", "2"]
    done = CliRunner().invoke(app, [*options, "--output", str(tmp_path / "faults")])
    assert done.exit_code == 0, done.stderr
    ((_, row),) = rows_of(Fault, [load_result(tmp_path / "faults.json")])
    expect_no_loss(row)
    assert (row.fault, row.store, row.times) == ("service killed", "SQLite", 1)
