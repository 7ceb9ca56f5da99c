"""Start the device process, have it load checkpoints, and end it."""

import os
import signal
import socket
import subprocess
import sys
import threading
from types import TracebackType
from typing import Self

from gradmem_core.errors import DeviceLostError, GradMemError
from service.device_process.channel import Channel
from service.device_process.messages import LoadCheckpoint
from service.settings import Settings

MODULE = "service.device_process"
END_SECONDS = 1.0
"Time in which a process that has closed its sockets ends."


class DeviceProcess:
    """A process that does the work of an engine; it ends with the one that started it.

    Use it as `with DeviceProcess(settings) as process:`.

    Args:
        settings: The operator's settings.
    """

    def __init__(self, settings: Settings) -> None:
        (control, other_control), (self.work, other_work) = socket.socketpair(), socket.socketpair()
        ends = (other_control.fileno(), other_work.fileno())
        with other_control, other_work:
            self._process = subprocess.Popen(  # noqa: S603
                # The modules are those of this process, whatever is in the working directory.
                [sys.executable, "-P", "-m", MODULE, *map(str, ends)],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                pass_fds=ends,
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for the service
            )
        self._control = Channel(control)
        self._asking = threading.Lock()
        self._control.send(settings)

    def load(self, number: int, reference: str, *, fingerprint: str) -> None:
        """Have a checkpoint loaded and tried; may be called on any thread.

        Args:
            number: Number by which orders will name it.
            reference: A folder, or the name of a bundled checkpoint.
            fingerprint: The fingerprint that it must have.

        Raises:
            CheckpointError: It cannot be loaded, fails its self-test, or has changed.
            DeviceError: The device cannot be used.
            DeviceLostError: The process has ended.
        """
        with self._asking:
            try:
                self._control.send(LoadCheckpoint(number, reference, fingerprint))
                error: GradMemError | None = self._control.receive()
            except (EOFError, OSError) as lost:
                raise DeviceLostError(f"the device is lost: {self.describe_end()}") from lost
        if error is not None:
            raise error

    def describe_end(self) -> str:
        """Return how the process ended, once its sockets are closed."""
        try:
            status = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return "its process does not answer"
        if status < 0:
            return f"its process was ended by {signal.Signals(-status).name}"
        return f"its process ended with status {status}; the log says why"

    def close(self) -> None:
        """End the process, also in the middle of a step: nobody waits for it."""
        self._process.kill()
        self._process.wait()
        self._control.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        self.work.close()
