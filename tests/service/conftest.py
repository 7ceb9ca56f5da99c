"""Tiny checkpoints, and services over real sockets."""

import logging
import shutil
import string
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from gradmem_core.backbone import Backbone
from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from gradmem_core.checkpoints.manifest import Task
from gradmem_core.config import MemoryConfig
from gradmem_core.model import MemoryModel
from gradmem_core.tokenizer import Tokenizer
from service.app import create_app
from service.log import AUDIT
from service.models import Models
from service.settings import Settings
from tests.lists import RECORDS, TOKENIZER

Serving = Callable[[FastAPI], AbstractContextManager[str]]
TASK = Task(
    name="kv",
    stop_tokens=["!", "|"],
    example_document="!aB:7x!!kk:Q3!|",
    example_query="?!kk:",
    example_answer="Q3",
)

MAX_PAGES = 5
"Most pages of a memory of the service for lists."
SYMBOLS = Tokenizer.from_characters(string.ascii_letters + string.digits + "!?:|")


def save_tiny(
    folder: Path,
    *,
    seed: int,
    name: str = "tiny",
    task: Task = TASK,
    tokenizer: Tokenizer = SYMBOLS,
    weight_scale: float = 1.0,
) -> Path:
    """Save a checkpoint with random weights."""
    backbone = Backbone.from_config(
        {
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
            "initializer_range": 0.2,
        },
        seed=seed,
    )
    for weight in backbone.causal_lm.parameters():
        weight.data *= weight_scale
    config = MemoryConfig(
        memory_tokens=4,
        write_steps=2,
        max_write_steps=8,
        inner_learning_rate=0.1,
        max_context_tokens=64,
        max_query_tokens=16,
        max_answer_tokens=8,
    )
    save_checkpoint(
        folder,
        name=name,
        model=MemoryModel(backbone, config, seed=seed),
        tokenizer=tokenizer,
        task=task,
        card="# tiny\n",
    )
    return folder


@pytest.fixture(autouse=True)
def audit_log_as_it_was() -> Iterator[None]:
    """Take back what a command set up in this process: its standard error is closed later."""
    logger = logging.getLogger(AUDIT)
    handlers, propagate = logger.handlers, logger.propagate
    yield
    logger.handlers, logger.propagate = handlers, propagate


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("checkpoints") / "tiny", seed=1)


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Checkpoint:
    return load_checkpoint(tiny_folder)


@pytest.fixture
def settings(tmp_path: Path, tiny_folder: Path) -> Settings:
    return Settings(
        checkpoints=[str(tiny_folder)], store_url=f"sqlite:///{tmp_path}/memories.db", threads=1
    )


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """Serve an app on a free port of the loopback interface; yield its base URL."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", access_log=False)
    with started(uvicorn.Server(config)) as url:
        yield url


@contextmanager
def started(server: uvicorn.Server) -> Iterator[str]:
    """Run a server in a thread until the context ends; yield its base URL."""
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            assert time.monotonic() < deadline, "the server took too long to start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)


def await_readiness(http: httpx.Client, status: int) -> httpx.Response:
    """Return the answer of `/readyz` as soon as it has that status."""
    deadline = time.monotonic() + 30
    while (response := http.get("/readyz")).status_code != status:
        assert time.monotonic() < deadline, response.text
        time.sleep(0.02)
    return response


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 20 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=20m", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no permission to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def serving() -> Serving:
    """The function that serves an app: `with serving(app) as base_url`."""
    return running


@pytest.fixture(scope="session")
def base_url(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a service with the tiny checkpoint and a SQLite store, for the whole session."""
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/memories.db"
    with running(create_app(Settings(store_url=url, threads=1), models=Models([tiny]))) as base:
        yield base


@pytest.fixture(scope="session")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """An untrained checkpoint for records: pages of 64 tokens, keys of 14, values of 7."""
    folder = tmp_path_factory.mktemp("checkpoints") / "lists"
    save_tiny(folder, seed=2, name="lists", task=RECORDS, tokenizer=TOKENIZER)
    return load_checkpoint(folder)


@pytest.fixture(scope="session")
def lists_url(
    lists: Checkpoint, tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Base URL of a service with that checkpoint and the tiny one, for the whole session."""
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/memories.db"
    settings = Settings(store_url=url, threads=1, max_pages=MAX_PAGES)
    with running(create_app(settings, models=Models([lists, tiny]))) as base:
        yield base
