"""Options and fixtures of all tests."""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from httpx import create_ssl_context
from hypothesis import settings

from benchmarks.faults.redis_server import RedisServer

# Before torch is imported, here and in processes that tests start. Two threads on busy cores spin:
# some tests took twenty times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before anything imports Triton: its kernels are interpreted on the CPU.
os.environ["TRITON_INTERPRET"] = "1"

# No deadline: a busy machine is no failure. CI draws the same examples in every run.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile("long", deadline=None, max_examples=20_000)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", default=None, help="folder with more golden cases")
    parser.addoption("--screenshots", default=None, help="folder for pictures of the page at /")


def pytest_xdist_auto_num_workers() -> int:
    """Half as many workers again as cores: tests wait for other processes and for timeouts."""
    # Not `count_cores`: it would import torch, and this process runs no tests.
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(8, (3 * (affinity or 1) + 1) // 2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have slow tests, so that no worker ends long after the others."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tests compute in one thread, whatever a trainer or a command before them has set."""
    import torch  # after the environment is set

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="session")
def certificates_read_once() -> Iterator[None]:
    """Clients share what httpx would read for each: it takes 30 ms, longer than most requests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", cache(create_ssl_context))
        yield


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop of tests marked with anyio."""
    return "asyncio"


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients try again at once."""
    monkeypatch.setattr("service.client.retries.FIRST_PAUSE_SECONDS", 0.01)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real Redis server that all tests share."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A real Redis server that a test may stop and start."""
    with RedisServer(tmp_path) as server:
        yield server
