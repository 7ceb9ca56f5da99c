"""The interface of every store of memories, and the record that it keeps of a memory.

A record is one byte string, so that any store can publish it in one operation:

    magic (4) | CRC-32 of the rest (4) | size of the JSON (4) | JSON | blob

with big-endian numbers. The JSON holds every field of the memory except the blob.
"""

import asyncio
import json
import re
import secrets
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import ClassVar, Self

from gradmem_core.errors import BlobError, MemoryNotFoundError, StoreUnavailableError
from gradmem_core.tenants import DEFAULT_TENANT, TENANT_PATTERN

MAGIC = b"GMS1"
PREFIX = struct.Struct(">4sI")
SIZE = struct.Struct(">I")
MEMORY_ID = re.compile(r"[0-9a-f]{32}")
TENANT = re.compile(TENANT_PATTERN)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

PROBE_LIFETIME = timedelta(seconds=60)
"Time after which a probe's memory expires where the probe could not delete it."
WITHDRAWAL_PAUSE_SECONDS = 1.0
"Pause between attempts to delete what an unfinished `put` may have left."
CLOSE_SECONDS = 2.0
"Longest time of the last such attempt, which `close` makes."


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
        ValueError: The id is not one that `new_memory_id` makes, the tenant has no valid name, or a
            time is not in UTC.
    """

    memory_id: str
    model: str
    blob: bytes = field(repr=False)
    metadata: dict[str, str] = field(repr=False)
    created_at: datetime
    expires_at: datetime | None = None
    tenant: str = DEFAULT_TENANT

    def __post_init__(self) -> None:
        if not MEMORY_ID.fullmatch(self.memory_id):
            raise ValueError("a memory id is 32 lower-case hexadecimal digits")
        if not TENANT.fullmatch(self.tenant):
            raise ValueError("a tenant is 1 to 63 lower-case letters, digits, - and _")
        for moment in (self.created_at, self.expires_at):
            if moment is not None and moment.utcoffset() != timedelta(0):
                raise ValueError("created_at and expires_at must have the time zone UTC")

    @property
    def key(self) -> str:
        """The key of the memory; see `memory_key`."""
        return memory_key(self.tenant, self.memory_id)


def memory_key(tenant: str, memory_id: str) -> str:
    """Return the key under which memories are stored and cached.

    It has the tenant in it, so that a foreign id is not found in the way in which a missing one is
    not. That of the default tenant is the id alone, as before tenants.
    """
    return memory_id if tenant == DEFAULT_TENANT else f"{tenant}:{memory_id}"


def split_key(key: str) -> tuple[str, str]:
    """Return the tenant and the id in a key."""
    tenant, _, memory_id = key.rpartition(":")
    return tenant or DEFAULT_TENANT, memory_id


class Store(ABC):
    """A store that keeps memories by their id until they are deleted or expire.

    Use it as `async with store:`, or call `open` first and `close` last. Any operation may raise
    StoreUnavailableError; the next one tries afresh. A store belongs to one event loop.
    """

    failed_puts_leave_nothing: ClassVar[bool]
    "True where an error of the store means that it stored nothing; over a network that is unknown."

    def __init__(self) -> None:
        self._unfinished: set[tuple[str, str]] = set()
        "Tenants and ids of memories that an unfinished `put` may have stored."
        self._withdrawal: asyncio.Task[None] | None = None

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """True between `open` and `close`."""

    @abstractmethod
    async def open(self) -> None:
        """Prepare the store for use.

        Raises:
            StoreUnavailableError: The store cannot be used now; `open` may be called again.
        """

    async def put(self, memory: StoredMemory) -> None:
        """Publish a new memory, whole or not at all.

        Nobody knows the id of a memory whose `put` failed or was cancelled, so nobody could ever
        delete it. Whatever such a `put` may have stored is deleted as soon as the store answers.

        Raises:
            MemoryExistsError: The id is taken; the stored memory stays as it was.
            StoreFullError: There is no room for the memory.
            StoreUnavailableError: See the class.
        """
        try:
            await self._publish(memory)
        except MemoryExistsError:
            raise
        except Exception:
            if not self.failed_puts_leave_nothing:
                self._withdraw(memory)
            raise
        except BaseException:  # cancelled, while the store may still be at work
            self._withdraw(memory)
            raise

    @abstractmethod
    async def _publish(self, memory: StoredMemory) -> None:
        """Publish a new memory; see `put`."""

    @abstractmethod
    async def get(self, tenant: str, memory_id: str) -> StoredMemory:
        """Return a memory of a tenant.

        Raises:
            MemoryNotFoundError: No memory of the tenant has that id, or it has expired.
            BlobError: The record under the id is damaged.
            StoreUnavailableError: See the class.
        """

    @abstractmethod
    async def replace(self, old: StoredMemory, new: StoredMemory) -> bool:
        """Replace a memory unless it has changed.

        Args:
            old: The memory as `get` returned it.
            new: The new memory, with the same id, tenant and expiry.

        Returns:
            True if it was replaced; False if it had changed, and stays as it is.

        Raises:
            MemoryNotFoundError: No memory has that id, or it has expired.
            StoreFullError: There is no room for the new memory.
            StoreUnavailableError: See the class.
        """

    @abstractmethod
    async def delete(self, tenant: str, memory_id: str) -> None:
        """Delete a memory of a tenant for good; a full store does that too.

        Raises:
            MemoryNotFoundError: No memory of the tenant has that id, or it has expired.
            StoreUnavailableError: See the class.
        """

    @abstractmethod
    def scan(self) -> AsyncIterator[tuple[str, str]]:
        """Yield tenant and id of every memory that is there all the while, in any order.

        Raises:
            StoreUnavailableError: See the class.
        """

    @abstractmethod
    async def save_key(self, key_id: str, record: str) -> None:
        """Store the record of an API key, in place of an older one.

        Raises:
            StoreFullError: There is no room for it.
            StoreUnavailableError: See the class.
        """

    @abstractmethod
    async def find_key(self, key_id: str) -> str | None:
        """Return the record of an API key; None where there is none.

        Raises:
            StoreUnavailableError: See the class.
        """

    @abstractmethod
    async def list_keys(self) -> list[str]:
        """Return the records of all API keys.

        Raises:
            StoreUnavailableError: See the class.
        """

    @abstractmethod
    async def has_keys(self) -> bool:
        """Return true if there is a record of an API key.

        Raises:
            StoreUnavailableError: See the class.
        """

    async def probe(self) -> None:
        """Store, fetch and delete a tiny memory, as requests do.

        Raises:
            StoreUnavailableError: The store does not do that now; the error says why.
        """
        memory = probe_memory()
        await self.put(memory)
        await self.get(memory.tenant, memory.memory_id)
        await self.delete(memory.tenant, memory.memory_id)

    @abstractmethod
    async def purge(self) -> None:
        """Remove the bytes of deleted memories from the files of the store.

        Raises:
            StoreUnavailableError: See the class.
        """

    async def close(self) -> None:
        """Release connections and threads; a store that is not open stays closed."""
        if self._withdrawal is not None:
            self._withdrawal.cancel()
            self._withdrawal = None
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._try_to_withdraw()
        await self._release()

    @abstractmethod
    async def _release(self) -> None:
        """Release connections and threads; see `close`."""

    def _withdraw(self, memory: StoredMemory) -> None:
        """Delete what an unfinished `put` may have stored, in the background."""
        if not self.is_open:
            return
        self._unfinished.add((memory.tenant, memory.memory_id))
        if self._withdrawal is None or self._withdrawal.done():
            self._withdrawal = asyncio.create_task(self._keep_withdrawing())

    async def _keep_withdrawing(self) -> None:
        await self._try_to_withdraw()
        while self._unfinished:
            await asyncio.sleep(WITHDRAWAL_PAUSE_SECONDS)
            await self._try_to_withdraw()

    async def _try_to_withdraw(self) -> None:
        with suppress(StoreUnavailableError):
            while self._unfinished:
                unfinished = next(iter(self._unfinished))
                with suppress(MemoryNotFoundError):
                    await self.delete(*unfinished)
                self._unfinished.discard(unfinished)

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


def probe_memory() -> StoredMemory:
    """Return a tiny memory with which a store is tried."""
    now = datetime.now(UTC)
    return StoredMemory(
        memory_id=new_memory_id(),
        model="probe",
        blob=b"",
        metadata={},
        created_at=now,
        expires_at=now + PROBE_LIFETIME,
    )


@contextmanager
def translate_errors(
    foreign: tuple[type[Exception], ...], explain: Callable[[Exception], StoreUnavailableError]
) -> Iterator[None]:
    """Turn a library's errors into errors that say what is wrong with the store.

    The library's own words stay out: they may hold paths, addresses or user names. The log gets the
    class of the cause.

    Args:
        foreign: Errors of the library.
        explain: Returns the error that explains one of them.
    """
    try:
        yield
    except foreign as exc:
        raise explain(exc) from exc


def not_open(store: str) -> StoreUnavailableError:
    """Return the error for an operation on a store that is not open."""
    return StoreUnavailableError(f"the {store} store is not open")


def not_found() -> MemoryNotFoundError:
    """Return the error for an id without a memory; it does not repeat the id, which is a secret."""
    return MemoryNotFoundError("no memory has this id, or it has expired")


def refuse_expired(memory: StoredMemory) -> None:
    """Refuse a memory that has expired by its own record, whatever the store made of it.

    Raises:
        MemoryNotFoundError: It has expired.
    """
    if memory.expires_at is not None and memory.expires_at <= datetime.now(UTC):
        raise not_found()


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
    if memory.tenant != DEFAULT_TENANT:  # left out as before tenants: records are compared as bytes
        head["tenant"] = memory.tenant
    text = json.dumps(head).encode()
    body = SIZE.pack(len(text)) + text + memory.blob
    return PREFIX.pack(MAGIC, zlib.crc32(body)) + body


def unpack(tenant: str, memory_id: str, record: object) -> StoredMemory:
    """Return the memory in the record stored under the key of a tenant and an id.

    Args:
        tenant: The tenant.
        memory_id: The id of the memory.
        record: The value in the store: bytes, unless something else wrote there.

    Raises:
        BlobError: The record is cut, damaged, or belongs to another memory.
    """
    try:
        memory = _parse(record)
    except (struct.error, ValueError, KeyError, TypeError) as exc:
        raise BlobError("the stored memory is damaged; write the document again") from exc
    if (memory.tenant, memory.memory_id) != (tenant, memory_id):
        raise BlobError(
            "the stored memory belongs to another id or tenant; write the document again"
        )
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
        tenant=head.get("tenant", DEFAULT_TENANT),
    )
