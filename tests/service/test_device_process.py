"""The device process: its work is that of a thread, and neither process outlives the other."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
import torch
from anyio.from_thread import BlockingPortal, start_blocking_portal

from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from gradmem_core.errors import CheckpointError, DeadlineError, EngineStoppedError
from gradmem_core.reading.sampling import Sampling
from gradmem_core.writing.compression import WrittenPage
from service.device_process.channel import pack
from service.device_process.executor import ProcessExecutor
from service.device_process.process import DeviceProcess
from service.devices import create_executor
from service.engine import Event, Executor, ReadWork, StepMade, TokenChosen, WriteWork
from service.engine.work import DeviceWork, Result
from service.settings import Settings
from service.telemetry import Telemetry
from tests.service.conftest import save_tiny

DOCUMENT = "!aB:7x!!kk:Q3!!0z:mN!|"
LONG = 10**6
"Gradient steps that nobody waits for."


@dataclass
class Running:
    """An executor on the loop of another thread."""

    executor: Executor
    checkpoint: Checkpoint
    telemetry: Telemetry
    portal: BlockingPortal

    def run(
        self,
        work: DeviceWork,
        *,
        seconds: float = 60,
        listener: Callable[[Event], None] | None = None,
    ) -> Result:
        async def run() -> Result:
            deadline = time.monotonic() + seconds
            return await self.executor.run(work, share="", deadline=deadline, listener=listener)

        return self.portal.call(run)

    def write(self, checkpoint: Checkpoint | None = None, **options: object) -> WrittenPage:
        page = self.run(a_write(checkpoint or self.checkpoint), **options)  # type: ignore[arg-type]
        assert isinstance(page, WrittenPage)
        return page


def a_write(checkpoint: Checkpoint, steps: int = 2) -> WriteWork:
    return WriteWork(checkpoint, checkpoint.tokenizer.encode(DOCUMENT), steps)


def a_read(checkpoint: Checkpoint, page: WrittenPage) -> ReadWork:
    queries = [checkpoint.tokenizer.encode(text) for text in ("?!kk:", "?!aB:")]
    sampling = [Sampling(4), Sampling(8, temperature=1.0, seed=3)]
    keys = [("a memory", "a page")]
    return ReadWork(checkpoint, page.memory[None], queries, sampling, [None], keys)


@contextmanager
def process_of(folder: Path) -> Iterator[Running]:
    checkpoint, telemetry = load_checkpoint(folder), Telemetry()
    settings = Settings(checkpoints=[str(folder)], threads=1)
    with DeviceProcess(settings) as process, start_blocking_portal() as portal:
        executor = ProcessExecutor(process, telemetry)
        executor.prepare(checkpoint, str(folder))
        portal.call(executor.start)
        yield Running(executor, checkpoint, telemetry, portal)
        executor.stop()


@pytest.fixture(scope="module")
def process(tiny_folder: Path) -> Iterator[Running]:
    with process_of(tiny_folder) as running:
        yield running


@pytest.fixture(scope="module")
def thread(tiny_folder: Path, tiny: Checkpoint) -> Iterator[Running]:
    telemetry = Telemetry()
    executor = create_executor(Settings(checkpoints=[str(tiny_folder)], threads=1), telemetry)
    with start_blocking_portal() as portal:
        executor.start()
        yield Running(executor, tiny, telemetry, portal)
        executor.stop()


def test_it_writes_and_reads_as_a_thread_does(process: Running, thread: Running) -> None:
    events: dict[str, list[Event]] = {"process": [], "thread": []}
    pages, answers = {}, {}
    for name, running in (("process", process), ("thread", thread)):
        pages[name] = running.write(listener=events[name].append)
        answers[name] = running.run(
            a_read(running.checkpoint, pages[name]), listener=events[name].append
        )
    torch.testing.assert_close(pages["process"].memory, pages["thread"].memory, rtol=0, atol=0)
    assert pages["process"].losses == pages["thread"].losses
    assert answers["process"] == answers["thread"]
    assert events["process"] == events["thread"]
    kinds = [type(event) for event in events["process"]]
    assert kinds[:3] == [StepMade, StepMade, TokenChosen]


def test_the_service_has_the_metrics_and_the_pace(process: Running) -> None:
    process.write()
    assert process.executor.pace.seconds("write", process.checkpoint.name, 100) > 0
    metrics = process.telemetry.exposition().decode()
    assert 'gradmem_step_seconds_count{kind="write"} 0.0' not in metrics
    assert 'gradmem_queue_seconds_count{kind="write"} 0.0' not in metrics
    assert "gradmem_waiting_requests 0.0" in metrics
    assert process.executor.step_seconds < 30


def test_work_that_nobody_waits_for_is_dropped(process: Running) -> None:
    begun = threading.Event()

    async def leave() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(run_long)
            await anyio.to_thread.run_sync(begun.wait)
            group.cancel_scope.cancel()

    async def run_long() -> None:
        await process.executor.run(
            a_write(process.checkpoint, LONG),
            share="",
            deadline=time.monotonic() + 600,
            listener=lambda _: begun.set(),
        )

    process.portal.call(leave)
    process.write()
    assert b"gradmem_cancelled_total 1.0" in process.telemetry.exposition()


def test_errors_of_work_come_back(process: Running) -> None:
    with pytest.raises(DeadlineError, match="timed out"):
        process.run(a_write(process.checkpoint, LONG), seconds=0.1)


def test_a_checkpoint_that_cannot_be_served_is_refused(process: Running, tmp_path: Path) -> None:
    prepare = process.executor.prepare  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match="/no/such"):
        prepare(process.checkpoint, "/no/such/checkpoint")
    other = str(save_tiny(tmp_path / "other", seed=7))
    with pytest.raises(CheckpointError, match="was changed while it was loaded"):
        prepare(process.checkpoint, other)
    divergent = save_tiny(tmp_path / "divergent", seed=1, name="divergent", weight_scale=1e30)
    with pytest.raises(CheckpointError, match="self-test"):
        prepare(load_checkpoint(divergent), str(divergent))
    process.write()


def test_a_checkpoint_is_dropped_with_the_services_own_copy(
    process: Running, tmp_path: Path
) -> None:
    executor = process.executor
    assert isinstance(executor, ProcessExecutor)
    folder = save_tiny(tmp_path / "new", seed=5, name="new")
    new = load_checkpoint(folder)
    executor.prepare(new, str(folder))
    process.write(new)
    assert len(executor._checkpoints) == 2
    del new
    gc.collect()
    assert len(executor._checkpoints) == 1
    process.write()


def test_a_row_of_a_batch_travels_alone() -> None:
    batch = torch.zeros(1000, 4, 32)
    assert len(pack(batch[0])) < 2 * batch[0].nbytes


def test_a_process_that_is_killed_answers_everything(tiny_folder: Path) -> None:
    lost = threading.Event()
    with process_of(tiny_folder) as running:
        running.executor.on_failure = lost.set

        def kill(_: Event) -> None:
            os.kill(child_of(os.getpid()), signal.SIGKILL)

        with pytest.raises(EngineStoppedError, match="before the request was done"):
            running.run(a_write(running.checkpoint, LONG), listener=kill)
        assert lost.wait(10)
        assert not running.executor.alive
        with pytest.raises(EngineStoppedError, match="is stopping"):
            running.write()


def test_it_ends_with_its_service(tiny_folder: Path, tiny: Checkpoint) -> None:
    program = """if True:
        import sys, time
        from service.device_process.process import DeviceProcess
        from service.settings import Settings

        process = DeviceProcess(Settings(threads=1))
        process.load(1, sys.argv[1], fingerprint=sys.argv[2])
        print(process._process.pid, flush=True)
        time.sleep(600)
    """
    command = [sys.executable, "-c", program, str(tiny_folder), tiny.fingerprint]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        pid = int(service.stdout.readline())
        service.kill()
        deadline = time.monotonic() + 60
        while is_alive(pid):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def child_of(pid: int) -> int:
    """Return the latest child of a process that runs the device."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    pids = [int(child) for file in children for child in file.read_text().split()]
    return max(
        pid for pid in pids if b"device_process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
