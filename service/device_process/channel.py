"""Carry messages between the service and its device process, over a pair of sockets.

The messages are pickles: nobody but the two processes has an end of the pair.
"""

import copyreg
import io
import pickle
import socket
import threading
from asyncio import StreamReader
from typing import Any

import torch
from torch import Tensor

SIZE_BYTES = 8
"Bytes before each message that hold its length."


def _reduce_tensor(tensor: Tensor) -> tuple[Any, ...]:
    return torch.from_numpy, (tensor.numpy(),)


class _Pickler(pickle.Pickler):
    """Pickles tensors as arrays: torch's own way writes an archive for each."""

    dispatch_table = copyreg.dispatch_table | {Tensor: _reduce_tensor}


def pack(message: object) -> bytes:
    """Return a message as it is sent; tensors have to be on the CPU."""
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(message)
    content = buffer.getbuffer()
    return len(content).to_bytes(SIZE_BYTES) + content


async def receive(reader: StreamReader) -> Any:  # noqa: ANN401
    """Return the next message of a stream.

    Raises:
        EOFError: The other end is closed.
    """
    size = int.from_bytes(await reader.readexactly(SIZE_BYTES))
    return pickle.loads(await reader.readexactly(size))  # noqa: S301


class Channel:
    """An end of a pair of sockets, which blocks; several threads may send.

    Args:
        end: The socket.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._file = end.makefile("rb")
        self._sending = threading.Lock()

    def send(self, message: object) -> None:
        """Send a message.

        Raises:
            OSError: The other end is closed.
        """
        with self._sending:
            self._socket.sendall(pack(message))

    def receive(self) -> Any:  # noqa: ANN401
        """Return the next message.

        Raises:
            EOFError: The other end is closed.
            OSError: It was closed in the middle of a message.
        """
        return pickle.loads(self._read(int.from_bytes(self._read(SIZE_BYTES))))  # noqa: S301

    def close(self) -> None:
        """Close this end."""
        self._file.close()
        self._socket.close()

    def _read(self, size: int) -> bytes:
        content = self._file.read(size)
        if len(content) < size:
            raise EOFError("the other end is closed")
        return content
