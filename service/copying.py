"""Copy what one store holds into another, as it is: what is encrypted stays encrypted.

A copy that was interrupted is continued by the next: what is there already stays as it is, except
for what goes only forward (jobs, keys of requests, revocations). Services may use the source while
memories are copied. Jobs and keys of requests are copied once none does: a job that is forgotten
there after it was copied would be written again.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from gradmem_core.errors import BlobError, MemoryNotFoundError
from service.encryption import REGISTER_ID, REGISTER_TENANT, copy_register
from service.idempotency import copy_claim
from service.keys import ApiKey
from service.stores import Store, StoredMemory
from service.stores.base import PROBE_TENANT

T = TypeVar("T")

AT_ONCE = 16
"Memories, jobs or records that are copied at a time."

Name = tuple[str, str]
"Tenant and id of a memory, or of a job."


@dataclass
class Copied:
    """The number of things of a kind that were copied."""

    copied: int = 0
    present: int = 0
    "Those that were there already."

    def count(self, *, is_new: bool) -> None:
        """Count one more."""
        self.copied += is_new
        self.present += not is_new


ShowProgress = Callable[[Copied], None]
"Shows how much of a kind is copied so far."


@dataclass
class CopiedMemories(Copied):
    """The result of `copy_memories`."""

    damaged: list[Name] = field(default_factory=list)
    "Memories that are damaged, in either store."


@dataclass
class CopiedStore:
    """The result of `copy_store`."""

    memories: CopiedMemories
    jobs: Copied | None
    "None where the copy was not the final one."
    idempotency_keys: Copied | None
    "None where the copy was not the final one."
    keys: Copied | None
    "API keys; None where they were not to be copied."

    @property
    def others(self) -> dict[str, Copied]:
        """The results besides that of the memories, by kind; without what was not to be copied."""
        kinds = {"jobs": self.jobs, "idempotency_keys": self.idempotency_keys, "keys": self.keys}
        return {kind: each for kind, each in kinds.items() if each is not None}


async def copy_store(
    source: Store,
    target: Store,
    *,
    final: bool,
    with_keys: bool,
    show_progress: Callable[[str, Copied], None],
) -> CopiedStore:
    """Copy what a store holds and another does not have yet, with its tenant and expiry.

    Args:
        source: The store that is copied.
        target: The store that gets the copies.
        final: Copy jobs and idempotency keys, too: no service uses the source any more.
        with_keys: Copy the API keys, too.
        show_progress: Called with what is being copied, and how much of it so far, again and again.

    Raises:
        StoreFullError: The target has no room; what is done stays done.
        StoreUnavailableError: A store cannot be reached; what is done stays done.
    """
    await copy_register(source, target)  # first: without it nothing encrypted can be explained
    keys = await copy_keys(source, target) if with_keys else None
    memories = await copy_memories(source, target, partial(show_progress, "memories"))
    if not final:
        return CopiedStore(memories, None, None, keys)
    claims = await copy_claims(source, target, partial(show_progress, "idempotency keys"))
    jobs = await copy_jobs(source, target, partial(show_progress, "jobs"))
    return CopiedStore(memories, jobs, claims, keys)


async def copy_memories(
    source: Store, target: Store, show_progress: ShowProgress
) -> CopiedMemories:
    """Copy the memories that a store does not have yet; see `copy_store`."""
    result = CopiedMemories()
    async for names in _in_parts(_find_memories(source)):
        memories = await _fetch(source, names, result)
        for memory, is_new in zip(memories, await target.put_many(memories), strict=True):
            if is_new:
                result.count(is_new=True)
            else:
                await _complete(target, memory, result)
        show_progress(result)
    return result


async def copy_jobs(source: Store, target: Store, show_progress: ShowProgress) -> Copied:
    """Copy the jobs that a store does not have yet, or that have come further; see `copy_store`.

    Documents that somebody works on are copied as waiting.
    """

    async def copy(name: Name) -> bool | None:
        whole = await source.jobs.fetch_whole(*name)
        return None if whole is None else await target.jobs.put_whole(whole)

    return await _copy_each(source.jobs.scan(), copy, show_progress)


async def copy_claims(source: Store, target: Store, show_progress: ShowProgress) -> Copied:
    """Copy the idempotency keys that a store does not have yet; see `copy_store`."""
    copy = partial(copy_claim, source.records, target.records)
    return await _copy_each(source.records.scan(), copy, show_progress)


async def copy_keys(source: Store, target: Store) -> Copied:
    """Copy the API keys that a store does not have yet, and revoke those that are revoked.

    Raises:
        StoreFullError, StoreUnavailableError: See `copy_store`.
    """
    result = Copied()
    for text in await source.list_keys():
        record = ApiKey.model_validate_json(text)
        there = await target.find_key(record.key_id)
        result.count(is_new=there is None)
        if there is None or (
            record.revoked_at is not None and ApiKey.model_validate_json(there).revoked_at is None
        ):
            await target.save_key(record.key_id, text)
    return result


async def _copy_each(
    names: AsyncIterator[T],
    copy: Callable[[T], Awaitable[bool | None]],
    show_progress: ShowProgress,
) -> Copied:
    """Copy what has names; `copy` returns False if it is there already, None if it is gone."""
    result = Copied()
    async for part in _in_parts(names):
        outcomes = await asyncio.gather(*map(copy, part), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            if outcome is not None:
                result.count(is_new=outcome)
        show_progress(result)
    return result


async def _find_memories(store: Store) -> AsyncIterator[Name]:
    """Yield the names of users' memories."""
    async for name in store.scan():
        if name[0] != PROBE_TENANT and name != (REGISTER_TENANT, REGISTER_ID):
            yield name


async def _in_parts(names: AsyncIterator[T]) -> AsyncIterator[list[T]]:
    """Yield names in parts without repetitions."""
    part = set()
    async for name in names:
        part.add(name)
        if len(part) == AT_ONCE:
            yield list(part)
            part = set()
    yield list(part)


async def _fetch(source: Store, names: list[Name], result: CopiedMemories) -> list[StoredMemory]:
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


async def _complete(target: Store, memory: StoredMemory, result: CopiedMemories) -> None:
    """Count a memory that was there, and complete what a copy that was killed may have left."""
    try:
        result.count(is_new=await target.put_once(memory))
    except BlobError:
        result.damaged.append((memory.tenant, memory.memory_id))
