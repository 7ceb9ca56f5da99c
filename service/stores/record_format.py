"""A memory as stores keep it, and the record that holds it.

A record is one byte string, so that any store can publish it in one operation:

    magic (4) | CRC-32 of the rest (4) | size of the JSON (4) | JSON | blob

with big-endian numbers. The JSON holds every field of the memory except the blob.
"""

import json
import struct
import zlib
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from gradmem_core.errors import BlobError
from gradmem_core.tenants import DEFAULT_TENANT
from service.stores.heads import MemoryHead

MAGIC = b"GMS1"
PREFIX = struct.Struct(">4sI")
SIZE = struct.Struct(">I")
START_BYTES = PREFIX.size + SIZE.size
"Bytes of a record before its JSON."


@dataclass(frozen=True, kw_only=True)
class StoredMemory(MemoryHead):
    """A memory as a store keeps it. The blob is a secret of users, too: repr omits it."""

    blob: bytes = field(repr=False)


def pack(memory: StoredMemory) -> bytes:
    """Return the record of a memory."""
    head = {
        "memory_id": memory.memory_id,
        "model": memory.model,
        "metadata": memory.metadata,
        "created_at": memory.created_at.isoformat(),
        "expires_at": memory.expires_at and memory.expires_at.isoformat(),
    }
    # Left out as before tenants and names: records are compared as bytes.
    if memory.tenant != DEFAULT_TENANT:
        head["tenant"] = memory.tenant
    if memory.name is not None:
        head["name"] = memory.name
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
    return StoredMemory(**_parse_fields(body[SIZE.size : end]), blob=body[end:])


def head_size(start: bytes) -> int:
    """Return how many bytes of a record its head takes, by the first START_BYTES of it."""
    try:
        return START_BYTES + int(SIZE.unpack_from(start, PREFIX.size)[0])
    except struct.error:
        return START_BYTES


def unpack_head(tenant: str, memory_id: str, start: bytes) -> MemoryHead | None:
    """Return the head in the first bytes of a record, whose checksum is not checked.

    Args:
        tenant: The tenant.
        memory_id: The id of the memory.
        start: At least `head_size` bytes.

    Returns:
        The head; None if it is damaged.
    """
    try:
        head = MemoryHead(**_parse_fields(start[START_BYTES : head_size(start)]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return head if (head.tenant, head.memory_id) == (tenant, memory_id) else None


def _parse_fields(text: bytes) -> dict[str, Any]:
    """Return the fields of a memory from the JSON of its record."""
    head = json.loads(text)
    expires_at = head["expires_at"]
    return {
        "memory_id": head["memory_id"],
        "model": head["model"],
        "metadata": head["metadata"],
        "created_at": datetime.fromisoformat(head["created_at"]),
        "expires_at": expires_at and datetime.fromisoformat(expires_at),
        "tenant": head.get("tenant", DEFAULT_TENANT),
        "name": head.get("name"),
    }
