"""Copy what one store holds into another, as it is: encrypted blobs stay encrypted.

A copy that was interrupted is continued by the next, and services may run meanwhile: what is there
already stays as it is.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from gradmem_core.errors import BlobError, MemoryNotFoundError
from service.encryption import REGISTER_ID, REGISTER_TENANT, copy_register
from service.keys import ApiKey
from service.stores import Store, StoredMemory
from service.stores.base import PROBE_TENANT

AT_ONCE = 16
"Memories that are copied at a time."

Name = tuple[str, str]
"Tenant and id of a memory."


@dataclass
class Copied:
    """The result of `copy_memories`."""

    copied: int = 0
    present: int = 0
    "Memories that were there already, and stay as they were."
    damaged: list[Name] = field(default_factory=list)
    "Memories that are damaged, in either store."


@dataclass
class CopiedKeys:
    """The result of `copy_keys`."""

    copied: int = 0
    present: int = 0
    "Keys that were there already."


async def copy_memories(
    source: Store, target: Store, show_progress: Callable[[Copied], None]
) -> Copied:
    """Copy every memory of a store that another does not have yet, with its tenant and expiry.

    Args:
        source: The store that is copied.
        target: The store that gets the memories.
        show_progress: Called with the result so far, again and again.

    Raises:
        StoreFullError: The target has no room; what is done stays done.
        StoreUnavailableError: A store cannot be reached; what is done stays done.
    """
    await copy_register(source, target)  # first: without it encrypted memories cannot be explained
    result = Copied()
    async for names in _in_parts(source.scan()):
        memories = await _fetch(source, names, result)
        for memory, is_new in zip(memories, await target.put_many(memories), strict=True):
            if is_new:
                result.copied += 1
            else:
                await _complete(target, memory, result)
        show_progress(result)
    return result


async def copy_keys(source: Store, target: Store) -> CopiedKeys:
    """Copy the API keys that a store does not have yet, and revoke those that are revoked.

    Raises:
        StoreFullError, StoreUnavailableError: See `copy_memories`.
    """
    result = CopiedKeys()
    for text in await source.list_keys():
        record = ApiKey.model_validate_json(text)
        there = await target.find_key(record.key_id)
        if there is None:
            result.copied += 1
        else:
            result.present += 1
            if record.revoked_at is None or ApiKey.model_validate_json(there).revoked_at:
                continue
        await target.save_key(record.key_id, text)
    return result


async def _in_parts(names: AsyncIterator[Name]) -> AsyncIterator[list[Name]]:
    """Yield the names of users' memories in parts without repetitions."""
    part = set()
    async for name in names:
        if name[0] != PROBE_TENANT and name != (REGISTER_TENANT, REGISTER_ID):
            part.add(name)
        if len(part) == AT_ONCE:
            yield list(part)
            part = set()
    yield list(part)


async def _fetch(source: Store, names: list[Name], result: Copied) -> list[StoredMemory]:
    """Return the memories that can be read, and note those that are damaged."""
    memories = []
    fetching = (source.get(*name) for name in names)
    outcomes = await asyncio.gather(*fetching, return_exceptions=True)
    for name, outcome in zip(names, outcomes, strict=True):
        if isinstance(outcome, StoredMemory):
            memories.append(outcome)
        elif isinstance(outcome, BlobError):
            result.damaged.append(name)
        elif not isinstance(outcome, MemoryNotFoundError):  # deleted or expired meanwhile
            raise outcome
    return memories


async def _complete(target: Store, memory: StoredMemory, result: Copied) -> None:
    """Count a memory that was there, and complete what a copy that was killed may have left."""
    try:
        is_new = await target.put_once(memory)
    except BlobError:
        result.damaged.append((memory.tenant, memory.memory_id))
    else:
        result.copied += is_new
        result.present += not is_new
