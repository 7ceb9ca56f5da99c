"""No tenant reaches a memory of another: the short form of `gradmem-bench isolation`."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from pydantic import BaseModel

from benchmarks.isolation.command import store_keys
from benchmarks.isolation.requests import Texts
from benchmarks.isolation.walk import run_walk
from gradmem_core.blob import Blob, unpack
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import MemoryNotFoundError
from service.app import create_app
from service.idempotency import Claim, Idempotency
from service.models import Models
from service.settings import Settings
from service.stores import StoredJob, StoredMemory
from service.stores.sqlite import SqliteStore
from service.stores.sqlite_jobs import SqliteJobs
from service.transfer import Transfer
from tests.service.conftest import Serving

TEXTS = Texts("!aB:7x!!kk:Q3!|", "?!kk:")
OPERATIONS = 300


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_tenants_reach_their_own_memories_alone(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, tiny: Checkpoint, serving: Serving
) -> None:
    url = f"sqlite:///{tmp_path}/memories.db"
    if kind == "redis":
        url = str(request.getfixturevalue("redis_server")).removesuffix("0") + "8"
    keys = asyncio.run(store_keys(url, 3))
    app = create_app(Settings(store_url=url, threads=1), models=Models([tiny]))
    with serving(app) as base:
        found = run_walk(base, keys, TEXTS, operations=OPERATIONS, seed=1)
    assert found.operations == OPERATIONS
    assert found.foreign > OPERATIONS // 10
    assert (found.leaked, found.lost, found.revived) == (0, 0, 0)


async def get_of_anybody(store: SqliteStore, tenant: str, memory_id: str) -> StoredMemory:
    for name in (tenant, "tenant-1"):
        with suppress(MemoryNotFoundError):
            return await GET(store, name, memory_id)
    return await GET(store, "tenant-2", memory_id)


async def find_job_of_anybody(jobs: SqliteJobs, _tenant: str, job_id: str) -> StoredJob | None:
    found = await FIND_JOB(jobs, "tenant-1", job_id)
    return found or await FIND_JOB(jobs, "tenant-2", job_id)


async def claim_for_everybody(
    idempotency: Idempotency, _tenant: str, key: str, body: BaseModel, *, size: int
) -> Claim:
    return await CLAIM(idempotency, "", key, body, size=size)


def adopt_of_anybody(
    transfer: Transfer, _tenant: str, memory_id: str, content: bytes
) -> tuple[StoredMemory, Blob]:
    return ADOPT(transfer, unpack(content).info.tenant, memory_id, content)


GET, FIND_JOB, CLAIM, ADOPT = SqliteStore.get, SqliteJobs.find, Idempotency.claim, Transfer._adopt


@pytest.mark.parametrize(
    ("owner", "name", "careless"),
    [
        (SqliteStore, "get", get_of_anybody),
        (SqliteJobs, "find", find_job_of_anybody),
        (Idempotency, "claim", claim_for_everybody),
        (Transfer, "_adopt", adopt_of_anybody),
    ],
)
def test_the_walk_finds_a_service_that_ignores_tenants(
    owner: type,
    name: str,
    careless: Callable[..., object],
    tmp_path: Path,
    tiny: Checkpoint,
    serving: Serving,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(owner, name, careless)
    url = f"sqlite:///{tmp_path}/memories.db"
    keys = asyncio.run(store_keys(url, 2))
    app = create_app(Settings(store_url=url, threads=1), models=Models([tiny]))
    with serving(app) as base:
        found = run_walk(base, keys, TEXTS, operations=200, seed=1)
    assert found.leaked > 0
