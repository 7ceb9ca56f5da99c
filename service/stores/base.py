"""The interface of every store of memories, and the record that it keeps of a memory.

A record is one byte string, so that any store can publish it in one operation:

    magic (4) | CRC-32 of the rest (4) | size of the JSON (4) | JSON | blob

with big-endian numbers. The JSON holds every field of the memory except the blob.
"""

import json
import re
import secrets
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

from gradmem_core.errors import BlobError, MemoryNotFoundError, StoreUnavailableError

MAGIC = b"GMS1"
PREFIX = struct.Struct(">4sI")
SIZE = struct.Struct(">I")
MEMORY_ID = re.compile(r"[0-9a-f]{32}")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def new_memory_id() -> str:
    """Return 128 random bits as 32 lower-case hexadecimal digits.

    Whoever knows an id can read the memory, so ids come from the system's secure source.
    """
    return secrets.token_hex(16)


class MemoryExistsError(ValueError):
    """The id of a new memory is taken, which is a bug of the caller: ids are random."""


@dataclass(frozen=True)
class StoredMemory:
    """A memory as a store keeps it. Blob and metadata are secrets of users: repr omits them.

    Raises:
        ValueError: The id is not one that `new_memory_id` makes, or a time is not in UTC.
    """

    memory_id: str
    model: str
    blob: bytes = field(repr=False)
    metadata: dict[str, str] = field(repr=False)
    created_at: datetime
    expires_at: datetime | None = None

    def __post_init__(self) -> None:
        if not MEMORY_ID.fullmatch(self.memory_id):
            raise ValueError("a memory id is 32 lower-case hexadecimal digits")
        for moment in (self.created_at, self.expires_at):
            if moment is not None and moment.utcoffset() != timedelta(0):
                raise ValueError("created_at and expires_at must have the time zone UTC")


class Store(ABC):
    """A store that keeps memories by their id until they are deleted or expire.

    Use it as `async with store:`, or call `open` first and `close` last. Any operation may raise
    StoreUnavailableError; the next one tries afresh. A store belongs to one event loop.
    """

    @abstractmethod
    async def open(self) -> None:
        """Prepare the store for use.

        Raises:
            StoreUnavailableError: The store cannot be used now; `open` may be called again.
        """

    @abstractmethod
    async def put(self, memory: StoredMemory) -> None:
        """Publish a new memory, whole or not at all.

        Raises:
            MemoryExistsError: The id is taken; the stored memory stays as it was.
            StoreUnavailableError: See the class.
        """

    @abstractmethod
    async def get(self, memory_id: str) -> StoredMemory:
        """Return a memory.

        Raises:
            MemoryNotFoundError: No memory has that id, or it has expired.
            BlobError: The record under the id is damaged.
            StoreUnavailableError: See the class.
        """

    @abstractmethod
    async def replace(self, old: StoredMemory, new: StoredMemory) -> bool:
        """Replace a memory unless it has changed.

        Args:
            old: The memory as `get` returned it.
            new: The new memory, with the same id and expiry.

        Returns:
            True if it was replaced; False if it had changed, and stays as it is.

        Raises:
            MemoryNotFoundError: No memory has that id, or it has expired.
            StoreUnavailableError: See the class.
        """

    @abstractmethod
    async def delete(self, memory_id: str) -> None:
        """Delete a memory for good.

        Raises:
            MemoryNotFoundError: No memory has that id, or it has expired.
            StoreUnavailableError: See the class.
        """

    @abstractmethod
    async def ping(self) -> None:
        """Check that the store answers.

        Raises:
            StoreUnavailableError: The store does not answer.
        """

    @abstractmethod
    async def close(self) -> None:
        """Release connections and threads; a store that is not open stays closed."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


@contextmanager
def translate_errors(store: str, foreign: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn a library's errors into StoreUnavailableError.

    The message names only the store: the cause, chained to the error, may hold paths or addresses.
    The log gets the class of the cause.
    """
    try:
        yield
    except foreign as exc:
        raise StoreUnavailableError(
            f"the {store} store cannot be reached or refused the operation; try again, and ask the"
            " operator if it persists"
        ) from exc


def not_open(store: str) -> StoreUnavailableError:
    """Return the error for an operation on a store that is not open."""
    return StoreUnavailableError(f"the {store} store is not open")


def not_found() -> MemoryNotFoundError:
    """Return the error for an id without a memory; it does not repeat the id, which is a secret."""
    return MemoryNotFoundError("no memory has this id, or it has expired")


def check_memory_id(memory_id: str) -> None:
    """Refuse an id that no memory can have, before it reaches a store.

    Raises:
        MemoryNotFoundError: The text is not a valid id.
    """
    if not MEMORY_ID.fullmatch(memory_id):
        raise not_found()


def to_microseconds(moment: datetime) -> int:
    """Return a time as microseconds since 1970, exactly."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def pack(memory: StoredMemory) -> bytes:
    """Return the record of a memory."""
    head = {
        "memory_id": memory.memory_id,
        "model": memory.model,
        "metadata": memory.metadata,
        "created_at": memory.created_at.isoformat(),
        "expires_at": memory.expires_at and memory.expires_at.isoformat(),
    }
    text = json.dumps(head).encode()
    body = SIZE.pack(len(text)) + text + memory.blob
    return PREFIX.pack(MAGIC, zlib.crc32(body)) + body


def unpack(memory_id: str, record: object) -> StoredMemory:
    """Return the memory in the record stored under an id.

    Args:
        memory_id: The id of the memory.
        record: The value in the store: bytes, unless something else wrote there.

    Raises:
        BlobError: The record is cut, damaged, or belongs to another memory.
    """
    try:
        memory = _parse(record)
    except (struct.error, ValueError, KeyError, TypeError) as exc:
        raise BlobError("the stored memory is damaged; write the document again") from exc
    if memory.memory_id != memory_id:
        raise BlobError("the stored memory belongs to another id; write the document again")
    return memory


def _parse(record: object) -> StoredMemory:
    if not isinstance(record, bytes):
        raise TypeError("a record is bytes")
    magic, checksum = PREFIX.unpack_from(record)
    body = record[PREFIX.size :]
    if magic != MAGIC or checksum != zlib.crc32(body):
        raise ValueError("wrong magic or checksum")
    end = SIZE.size + SIZE.unpack_from(body)[0]
    head = json.loads(body[SIZE.size : end])
    expires_at = head["expires_at"]
    return StoredMemory(
        memory_id=head["memory_id"],
        model=head["model"],
        blob=body[end:],
        metadata=head["metadata"],
        created_at=datetime.fromisoformat(head["created_at"]),
        expires_at=expires_at and datetime.fromisoformat(expires_at),
    )
