"""`/readyz`, and WRITE, beside parts that fail: over a real uvicorn, with real stores."""

import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import redis

from benchmarks.faults.redis_server import RedisServer
from gradmem_core.checkpoints.checkpoint import Checkpoint
from service import readiness
from service.app import create_app
from service.engine import AdmissionLimits, BatchLimits, Engine, TorchDevice
from service.engine.device import OngoingWrite, WriteOutcome
from service.models import Models
from service.settings import Settings
from tests.service.conftest import Serving, await_readiness
from tests.service.engines import engine_on

DOCUMENT = "!aB:7x!!kk:Q3!|"


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probe the store at once and often."""
    monkeypatch.setattr(readiness, "PROBE_SECONDS", 0.05)
    monkeypatch.setattr(readiness, "FRESH_SECONDS", 0.0)


@contextmanager
def service(
    settings: Settings,
    tiny: Checkpoint,
    serving: Serving,
    *,
    store_url: str | None = None,
    engine: Engine | None = None,
) -> Iterator[httpx.Client]:
    if store_url is not None:
        settings = settings.model_copy(update={"store_url": store_url})
    app = create_app(settings, models=Models([tiny]), engine=engine)
    with serving(app) as url, httpx.Client(base_url=url, timeout=30) as http:
        yield http


def expect_refusal(http: httpx.Client, status: int, slug: str, cause: str) -> None:
    """Expect a WRITE to be refused for a cause, without a gradient step."""
    steps = gradient_steps(http)
    response = http.post("/write", json={"document": DOCUMENT})
    assert response.status_code == status
    assert response.json()["type"] == f"urn:gradmem:problem:{slug}"
    assert re.search(cause, response.json()["detail"])
    assert gradient_steps(http) == steps


def gradient_steps(http: httpx.Client) -> str:
    lines = http.get("/metrics").text.splitlines()
    return next((line for line in lines if 'step_seconds_count{kind="write"}' in line), "none")


def not_ready(http: httpx.Client) -> str:
    problem = await_readiness(http, 503).json()
    assert problem["type"] == "urn:gradmem:problem:not-ready"
    return str(problem["detail"])


def test_a_full_redis_is_named(
    settings: Settings,
    tiny: Checkpoint,
    serving: Serving,
    own_redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readiness, "PROBE_SECONDS", 3600)  # the WRITE itself has to find it
    with (
        service(settings, tiny, serving, store_url=own_redis.url) as http,
        redis.Redis.from_url(own_redis.url) as client,
    ):
        await_readiness(http, 200)
        memory_id = http.post("/write", json={"document": DOCUMENT}).json()["memory_id"]
        client.config_set("maxmemory", "1")
        expect_refusal(http, 507, "store-full", "maxmemory")
        assert not_ready(http).startswith("store: the Redis store has no room")
        assert http.get(f"/memories/{memory_id}").status_code == 200
        assert http.delete(f"/memories/{memory_id}").status_code == 204
        client.config_set("maxmemory", "0")
        assert http.post("/write", json={"document": DOCUMENT}).status_code == 201
        await_readiness(http, 200)


def test_a_redis_that_hangs_does_not_hold_up_the_answer(
    settings: Settings, tiny: Checkpoint, serving: Serving, own_redis: RedisServer
) -> None:
    with service(settings, tiny, serving, store_url=own_redis.url) as http:
        own_redis.pause()
        slowest = 0.0
        started = time.monotonic()
        while (begun := time.monotonic()) < started + 1:
            http.get("/readyz")
            slowest = max(slowest, time.monotonic() - begun)
        assert slowest < 1.5  # Redis would take 2 s, several times
        assert "store: the Redis store did not answer" in not_ready(http)
        own_redis.go_on()
        await_readiness(http, 200)


def test_a_removed_sqlite_file_is_named(
    settings: Settings, tiny: Checkpoint, serving: Serving, tmp_path: Path
) -> None:
    with service(settings, tiny, serving) as http:
        (tmp_path / "memories.db").unlink()
        assert "store: the SQLite file was removed" in not_ready(http)
        expect_refusal(http, 503, "store-unavailable", "removed or replaced")


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_metrics_tell_what_the_store_holds_unless_it_fails(
    kind: str,
    request: pytest.FixtureRequest,
    settings: Settings,
    tiny: Checkpoint,
    serving: Serving,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(readiness, "USAGE_SECONDS", 0.0)
    own_redis = request.getfixturevalue("own_redis") if kind == "redis" else None
    store_url = None if own_redis is None else own_redis.url
    with service(settings, tiny, serving, store_url=store_url) as http:
        await_usage(http, "0.0", "0.0")
        for _ in range(2):
            assert http.post("/write", json={"document": DOCUMENT}).status_code == 201
        bytes_ = http.get("/limits").json()["bytes_used"]
        await_usage(http, "2.0", f"{bytes_:.1f}")
        if own_redis is None:
            (tmp_path / "memories.db").unlink()
        else:
            own_redis.pause()
        await_usage(http, "NaN", "NaN")
        if own_redis is not None:
            own_redis.go_on()
            await_usage(http, "2.0", f"{bytes_:.1f}")


def await_usage(http: httpx.Client, memories: str, bytes_: str) -> None:
    """Wait until the metrics say that the store holds this."""
    expected = {f"gradmem_store_memories {memories}", f"gradmem_store_bytes {bytes_}"}
    deadline = time.monotonic() + 30
    while not expected <= set(http.get("/metrics").text.splitlines()):
        assert time.monotonic() < deadline, expected
        time.sleep(0.02)


def test_a_stalled_device_is_named(
    settings: Settings, tiny: Checkpoint, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stalled(TorchDevice):
        go_on = threading.Event()

        def write_step(self, writes: Sequence[OngoingWrite]) -> list[WriteOutcome]:
            assert self.go_on.wait(timeout=30)
            return super().write_step(writes)

    monkeypatch.setattr(readiness, "STALL_SECONDS", 0.1)
    device = Stalled(prefix_bytes=0)
    engine = engine_on(device, BatchLimits(1000, 100), AdmissionLimits(1000, 20))
    with service(settings, tiny, serving, engine=engine) as http:
        assert http.get("/readyz").json() == {"status": "ok"}
        writing = threading.Thread(
            target=http.post, args=("/write",), kwargs={"json": {"document": DOCUMENT}}
        )
        writing.start()
        assert not_ready(http).startswith(
            "engine: the device has been in one step, or silent, for "
        )
        device.go_on.set()
        writing.join()
        await_readiness(http, 200)


def test_a_readiness_answer_waits_for_no_write(
    settings: Settings, tiny: Checkpoint, serving: Serving
) -> None:
    """A full engine is ready all the same: it was refused with 429 once."""
    device = TorchDevice(prefix_bytes=0)
    engine = engine_on(device, BatchLimits(1000, 100), AdmissionLimits(1, 20))
    with service(settings, tiny, serving, engine=engine) as http:
        bodies = [{"document": DOCUMENT, "steps": 8}] * 4
        writers = [
            threading.Thread(target=http.post, args=("/write",), kwargs={"json": body})
            for body in bodies
        ]
        for writer in writers:
            writer.start()
        while any(writer.is_alive() for writer in writers):
            assert http.get("/readyz").status_code == 200
        for writer in writers:
            writer.join()
