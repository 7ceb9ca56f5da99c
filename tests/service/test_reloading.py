"""Checkpoints are tried before they serve, and change without a restart."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import torch
from torch import nn

from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from gradmem_core.errors import CheckpointError
from service import models
from service.models import Models
from service.reloading import Reloader
from service.self_test import try_checkpoint
from service.settings import Settings
from tests.service.conftest import save_tiny

pytestmark = pytest.mark.anyio

DOCUMENT = "!aB:7x!!kk:Q3!|"
QUERY = "?!kk:"
GRADMEM = Path(sys.executable).with_name("gradmem")


# Trying


def test_a_checkpoint_that_writes_and_reads_passes(
    tiny: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    try_checkpoint(tiny, dtype="int8")
    assert "tiny answers the example query of its task wrongly" in caplog.text  # it is untrained


def test_a_bundled_checkpoint_answers_its_example(caplog: pytest.LogCaptureFixture) -> None:
    try_checkpoint(load_checkpoint("kv-16"), dtype="int8")
    assert caplog.text == ""


def test_a_write_that_diverges_fails(tmp_path: Path) -> None:
    divergent = load_checkpoint(save_tiny(tmp_path / "tiny", seed=1, weight_scale=1e30))
    with pytest.raises(CheckpointError, match="tiny fails its self-test: WRITE ended"):
        try_checkpoint(divergent, dtype="float32")


def test_a_read_that_is_not_finite_fails(tiny_folder: Path) -> None:
    checkpoint = load_checkpoint(tiny_folder)
    written = checkpoint.model.initial_memory.detach()

    def break_long_inputs(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        if output.shape[-2] != written.shape[-2]:
            output.fill_(torch.nan)

    head = checkpoint.model.backbone.causal_lm.lm_head
    head.register_forward_hook(break_long_inputs)
    with pytest.raises(CheckpointError, match="fails its self-test: READ ended"):
        try_checkpoint(checkpoint, dtype="float32")


def test_an_example_that_is_refused_fails(tiny: Checkpoint) -> None:
    other = replace(tiny, task=tiny.task.model_copy(update={"example_query": "ä"}))
    with pytest.raises(CheckpointError, match="fails its self-test"):
        try_checkpoint(other, dtype="float32")


# Reloading


def prepare(checkpoint: Checkpoint, _reference: str) -> None:
    try_checkpoint(checkpoint, dtype="int8")


class Served:
    """Checkpoints in a file, served and reloaded without a server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "checkpoints"
        self.settings = Settings(checkpoints_file=self.file)
        self.name("one")
        self.models = Models.load(self.settings.read_checkpoints(), device="cpu")

    def name(self, *names: str) -> None:
        """Write names of checkpoints into the file; those without a folder get one."""
        for name in names:
            if not (self.folder / name).exists():
                save_tiny(self.folder / name, seed=len(name) + ord(name[0]), name=name)
        self.file.write_text("".join(f"{self.folder / name}\n" for name in names))

    async def reload(self) -> None:
        reloader = Reloader(self.models, self.settings, prepare)
        reloader.request()
        assert reloader._task is not None
        await reloader._task

    @property
    def names(self) -> list[str]:
        return [checkpoint.name for checkpoint in self.models.all()]


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(tmp_path)


async def test_checkpoints_are_added_and_the_default_is_switched(served: Served) -> None:
    one = served.models.get("one")
    served.name("two", "one")
    await served.reload()
    assert served.names == ["two", "one"]
    assert served.models.get(None).name == "two"
    assert served.models.get("one") is one  # not loaded again
    served.name("two")
    await served.reload()
    assert served.names == ["two"]


def test_a_memory_is_read_by_the_checkpoint_of_its_name_among_copies(tiny: Checkpoint) -> None:
    copy = replace(tiny, name="copy")
    models = Models([copy, tiny])
    assert models.find_writer(tiny.fingerprint, "tiny") is tiny
    assert models.find_writer(tiny.fingerprint, "a name of the past") is copy


async def test_a_checkpoint_that_changed_in_its_place_is_loaded(served: Served) -> None:
    before = served.models.get("one")
    save_tiny(served.folder / "one", seed=99, name="one")
    await served.reload()
    assert served.models.get("one").fingerprint != before.fingerprint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n  \n", "is empty"),
        ("{folder}/one\n/no/such/checkpoint\n", "/no/such/checkpoint"),
        ("{folder}/one\n{folder}/one\n", "the same name"),
        ("{folder}/divergent\n", "self-test"),
        (None, "cannot be read"),
    ],
)
async def test_what_cannot_be_served_changes_nothing(
    served: Served, content: str | None, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    save_tiny(served.folder / "divergent", seed=1, name="divergent", weight_scale=1e30)
    served.file.unlink()
    if content is not None:
        served.file.write_text(content.format(folder=served.folder))
    before = served.models.all()
    with caplog.at_level(logging.ERROR):
        await served.reload()
    assert served.models.all() == before
    assert "the checkpoints stay as they are: " in caplog.text
    assert message in caplog.text


async def test_a_service_that_stops_ends_its_reload(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    loading, may_go_on, loaded = threading.Event(), threading.Event(), list[str]()

    def load_slowly(reference: str, *, device: str) -> Checkpoint:
        loaded.append(Path(reference).name)
        loading.set()
        assert may_go_on.wait(60)
        return load_checkpoint(reference, device=device)

    monkeypatch.setattr(models, "load_checkpoint", load_slowly)
    served.name("two", "three")
    reloader = Reloader(served.models, served.settings, prepare)
    reloader.request()
    await asyncio.to_thread(loading.wait, 60)
    closing = asyncio.create_task(reloader.close())
    await asyncio.sleep(0)
    assert not closing.done()
    reloader.request()
    may_go_on.set()
    await closing
    reloader.request()
    assert (loaded, served.names) == (["two"], ["one"])
    assert [record.levelname for record in caplog.records if "reload" in record.message] == ["INFO"]


# A process


@contextmanager
def gradmem_serve(folder: Path, file: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    environment = {
        **os.environ,
        "GRADMEM_PORT": str(port),
        "GRADMEM_CHECKPOINTS_FILE": str(file),
        "GRADMEM_STORE_URL": f"sqlite:///{folder}/memories.db",
        "GRADMEM_THREADS": "1",
    }
    process = subprocess.Popen([GRADMEM, "serve"], env=environment)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{url}/livez"))
        yield url, process
    finally:
        process.terminate()
        assert process.wait(60) == 0


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=30).is_success
    except httpx.TransportError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240  # torch loads slowly on a busy machine
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_sighup_reloads_and_memories_keep_their_checkpoint(tmp_path: Path) -> None:
    served = Served(tmp_path)
    with gradmem_serve(tmp_path, served.file) as (url, process):

        def reload(*names: str) -> None:
            served.name(*names)
            process.send_signal(signal.SIGHUP)
            wait_until(
                lambda: (
                    [m["name"] for m in httpx.get(f"{url}/models").json()["models"]] == list(names)
                )
            )

        def write() -> dict[str, str]:
            memory: dict[str, str] = httpx.post(f"{url}/write", json={"document": DOCUMENT}).json()
            return memory

        def read(memory: dict[str, str]) -> httpx.Response:
            body = {"memory_id": memory["memory_id"], "query": QUERY}
            return httpx.post(f"{url}/read", json=body)

        old = write()
        first = read(old).json()
        reload("two", "one")
        new = write()
        assert (old["model"], new["model"]) == ("one", "two")
        assert read(old).json() == first
        assert read(new).is_success
        reload("two")
        refused = read(old)
        assert refused.status_code == 409
        assert refused.json()["type"] == "urn:gradmem:problem:fingerprint-mismatch"
        assert "the model one, which wrote the memory, is not served" in refused.json()["detail"]
        assert read(new).is_success
        served.name("three", "four")
        process.send_signal(signal.SIGHUP)  # and SIGTERM right after it
