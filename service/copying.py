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
from service.stores import Store
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
        copying = (_copy_memory(source, target, name, result) for name in names)
        outcomes = await asyncio.gather(*copying, return_exceptions=True)
        for error in filter(None, outcomes):
            raise error
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
    part = []
    async for name in names:
        if name[0] != PROBE_TENANT and name != (REGISTER_TENANT, REGISTER_ID):
            part.append(name)
        if len(part) == AT_ONCE:
            yield part
            part = []
    yield part


async def _copy_memory(source: Store, target: Store, name: Name, result: Copied) -> None:
    try:
        copied = await target.put_once(await source.get(*name))
    except MemoryNotFoundError:  # deleted or expired meanwhile
        return
    except BlobError:
        result.damaged.append(name)
        return
    result.copied += copied
    result.present += not copied
