"""The service in a process of its own, so that it shares no interpreter with what measures it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

from gradmem_core.errors import DeviceError
from service.client import Client
from service.settings import Settings

START_SECONDS = 900
"""Longest time until the service is ready. On busy cores that takes minutes; a process that has
ended is noticed at once."""
STOP_SECONDS = 30
PROCESS = "/proc/{pid}"


@dataclass(frozen=True)
class RunningService:
    """A running service."""

    url: str
    pid: int | None
    "Its process; None for one that was running before."

    def resident_bytes(self) -> int | None:
        """Return the memory that its processes hold; None where that cannot be known."""
        folders = self._folders()
        return sum(_kibibytes(folder) for folder in folders) * 1024 if folders else None

    def threads(self) -> int | None:
        """Return the number of their threads; None where that cannot be known."""
        folders = self._folders()
        return sum(_count(folder / "task") for folder in folders) if folders else None

    def open_files(self) -> int | None:
        """Return the number of their open files and sockets; None where that cannot be known."""
        folders = self._folders()
        return sum(_count(folder / "fd") for folder in folders) if folders else None

    def _folders(self) -> list[Path]:
        """Return the folders in which Linux describes the process and those that it started."""
        own = Path(PROCESS.format(pid=self.pid))
        started = [pid for file in own.glob("task/*/children") for pid in file.read_text().split()]
        return [own, *(Path(PROCESS.format(pid=pid)) for pid in started)] if own.exists() else []


def _kibibytes(process: Path) -> int:
    """Return the memory that a process holds."""
    [line] = [line for line in (process / "status").read_text().splitlines() if "VmRSS" in line]
    return int(line.split()[1])


def _count(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir())


@contextmanager
def run_service(
    settings: Settings, environment: Mapping[str, str] | None = None
) -> Iterator[RunningService]:
    """Run `gradmem serve` on a free loopback port until the body is done.

    Args:
        settings: Its checkpoints, store and device; the environment has the rest.
        environment: Variables of its environment, besides those of this process.

    Raises:
        DeviceError: It did not start.
    """
    checkpoints = [part for name in settings.checkpoints for part in ("--checkpoint", name)]
    options = ["--host", "127.0.0.1", "--port", "0", "--device", settings.device]
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "service", "serve", *checkpoints, *options],
        env=os.environ
        | {"GRADMEM_STORE_URL": settings.store_url, "GRADMEM_LOG_LEVEL": "error"}
        | dict(environment or {}),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield RunningService(await_service(process), process.pid)
        finally:
            stop_service(process)


def await_service(process: "subprocess.Popen[str]", *, seconds: float = START_SECONDS) -> str:
    """Wait until a service is ready; return its base URL, which it prints once it listens.

    Args:
        process: `gradmem serve`, whose standard output is a pipe.
        seconds: Longest time; a process that has not printed its URL by then is killed.

    Raises:
        DeviceError: It did not start.
    """
    deadline = time.monotonic() + seconds
    url = _read_line(process, seconds)
    if not url:
        raise DeviceError("the service did not start")
    with Client(url) as client:
        while not client.ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise DeviceError("the service did not become ready")
            time.sleep(0.1)
    return url


def stop_service(process: "subprocess.Popen[str]") -> None:
    """Stop a service; kill it where it takes too long."""
    process.terminate()
    try:
        process.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _read_line(process: "subprocess.Popen[str]", seconds: float) -> str:
    """Return the next line of a process, which is killed where it prints none in time."""
    assert process.stdout is not None
    timer = Timer(seconds, process.kill)
    timer.start()
    try:
        return process.stdout.readline().strip()
    finally:
        timer.cancel()  # the interpreter would wait for it before it ends
