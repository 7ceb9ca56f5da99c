"""The service in a process of its own, so that it shares no interpreter with what measures it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gradmem_core.errors import DeviceError
from service.client import Client
from service.settings import Settings

START_SECONDS = 120
STOP_SECONDS = 30
STATUS = "/proc/{pid}/status"


@dataclass(frozen=True)
class RunningService:
    """A running service."""

    url: str
    pid: int | None
    "Its process; None for one that was running before."

    def resident_bytes(self) -> int | None:
        """Return the memory that the process holds; None where that cannot be known."""
        status = Path(STATUS.format(pid=self.pid))
        if self.pid is None or not status.exists():
            return None
        (line,) = [x for x in status.read_text().splitlines() if x.startswith("VmRSS:")]
        return int(line.split()[1]) * 1024


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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    checkpoints = [part for name in settings.checkpoints for part in ("--checkpoint", name)]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", settings.device]
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "service", "serve", *checkpoints, *options],
        env=os.environ
        | {"GRADMEM_STORE_URL": settings.store_url, "GRADMEM_LOG_LEVEL": "error"}
        | dict(environment or {}),
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _await_ready(url, process)
        yield RunningService(url, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    with Client(url) as client:
        while not client.ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise DeviceError("the service to be measured did not start")
            time.sleep(0.1)
