"""No tenant reaches a memory of another: the short form of `gradmem-bench isolation`."""

import asyncio
from pathlib import Path

import pytest

from benchmarks.isolation.command import store_keys
from benchmarks.isolation.walk import Texts, run_walk
from gradmem_core.checkpoints.checkpoint import Checkpoint
from service.app import create_app
from service.models import Models
from service.settings import Settings
from service.stores import StoredMemory
from service.stores.sqlite import SqliteStore
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


class CarelessStore(SqliteStore):
    """A store that finds memories whosever they are."""

    async def get(self, tenant: str, memory_id: str) -> StoredMemory:
        for name in (tenant, "tenant-1", "tenant-2"):
            try:
                return await super().get(name, memory_id)
            except Exception:
                continue
        return await super().get(tenant, memory_id)


def test_the_walk_finds_a_store_that_ignores_tenants(
    tmp_path: Path, tiny: Checkpoint, serving: Serving
) -> None:
    url = f"sqlite:///{tmp_path}/memories.db"
    keys = asyncio.run(store_keys(url, 2))
    careless = CarelessStore(tmp_path / "memories.db")
    app = create_app(Settings(store_url=url, threads=1), models=Models([tiny]), store=careless)
    with serving(app) as base:
        found = run_walk(base, keys, TEXTS, operations=30, seed=1)
    assert found.leaked > 0
