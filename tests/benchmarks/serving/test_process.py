"""The wait for a service that is a process of its own."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from benchmarks.serving.process import await_service
from gradmem_core.errors import DeviceError


@pytest.fixture
def silent() -> Iterator["subprocess.Popen[str]"]:
    """A process that prints nothing."""
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def test_a_process_that_prints_no_url_is_killed(silent: "subprocess.Popen[str]") -> None:
    with pytest.raises(DeviceError, match="did not start"):
        await_service(silent, seconds=0.1)
    assert silent.wait() == -signal.SIGKILL


def test_whoever_is_stopped_while_waiting_ends_at_once(silent: "subprocess.Popen[str]") -> None:
    def stop(*_: object) -> None:
        sys.exit(1)

    threads = threading.active_count()
    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(SystemExit):
            await_service(silent)
    finally:
        signal.signal(signal.SIGALRM, before)
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(10)  # it has been cancelled
    assert threading.active_count() == threads
    assert silent.poll() is None
