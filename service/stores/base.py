"""The interface of every store of memories."""

import asyncio
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import ClassVar, Self

from gradmem_core.errors import MemoryNotFoundError, QuotaError, StoreUnavailableError
from gradmem_core.tenants import OWN_PREFIX
from service.stores.errors import MemoryExistsError, check_memory_id, not_found
from service.stores.heads import NEWEST, MemoryFilter, MemoryHead, MemoryList
from service.stores.jobs import JobStore
from service.stores.record_format import StoredMemory
from service.stores.records import RecordStore
from service.stores.usage import NO_QUOTA, Quota, Usage

PROBE_TENANT = f"{OWN_PREFIX}probe"
"Tenant of probes: nobody's lists have them."
PROBE_LIFETIME = timedelta(seconds=60)
"Time after which a probe's memory expires where the probe could not delete it."
WITHDRAWAL_PAUSE_SECONDS = 1.0
"Pause between attempts to delete what an unfinished `put` may have left."
CLOSE_SECONDS = 2.0
"Longest time of the last such attempt, which `close` makes."
MAX_WALKED = 2000
"Most entries of the index that one call of `list_memories` walks past."


def new_memory_id() -> str:
    """Return 128 random bits as 32 lower-case hexadecimal digits.

    Whoever knows an id can read the memory, so ids come from the system's secure source.
    """
    return secrets.token_hex(16)


class Store(ABC):
    """A store that keeps memories by their id until they are deleted or expire.

    Use it as `async with store:`, or call `open` first and `close` last. Any operation may raise
    StoreUnavailableError; the next one tries afresh. A store belongs to one event loop.
    """

    failed_puts_leave_nothing: ClassVar[bool]
    "True where an error of the store means that it stored nothing; over a network that is unknown."
    records: RecordStore
    "Small records of the service itself."
    jobs: JobStore
    "Documents that are written after the response."

    def __init__(self) -> None:
        self._unfinished: set[tuple[str, str]] = set()
        "Tenants and ids of memories that an unfinished `put` may have stored."
        self._withdrawal: asyncio.Task[None] | None = None
        self._full_at: dict[str, float] = {}
        "Times at which the buckets of keys are full again."

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

    async def put(self, memory: StoredMemory, quota: Quota = NO_QUOTA) -> None:
        """Publish a new memory, whole or not at all.

        Whatever a `put` that failed or was cancelled may have stored is deleted as soon as the
        store answers, for nobody else knows its id. An id that others may know is for `put_once`.

        Args:
            memory: The memory, whose id is fresh (`new_memory_id`).
            quota: Most that its tenant may have with it.

        Raises:
            MemoryExistsError: The id is taken; the stored memory stays as it was.
            QuotaError: The tenant would have more than the quota.
            StoreFullError: There is no room for the memory.
            StoreUnavailableError: See the class.
        """
        try:
            await self._publish(memory, quota)
        except (MemoryExistsError, QuotaError):
            raise
        except Exception:
            if not self.failed_puts_leave_nothing:
                self._withdraw(memory)
            raise
        except BaseException:  # cancelled, while the store may still be at work
            self._withdraw(memory)
            raise

    async def put_once(self, memory: StoredMemory, quota: Quota = NO_QUOTA) -> bool:
        """Publish a memory whose id was noted down beforehand, so that this can be repeated.

        Whatever an earlier attempt may have stored stays: it is the memory.

        Args:
            memory: The memory.
            quota: Most that its tenant may have with it.

        Returns:
            True if it is new; False if a memory has the id, which stays as it is.

        Raises:
            QuotaError: The tenant would have more than the quota.
            StoreFullError: There is no room for the memory.
            StoreUnavailableError: See the class; it may have been published.
        """
        while True:
            try:
                await self._publish(memory, quota)
            except MemoryExistsError:
                with suppress(MemoryNotFoundError):  # an attempt that was not completed has expired
                    await self.complete_put(memory.tenant, memory.memory_id)
                    return False
            else:
                return True

    @abstractmethod
    async def put_many(self, memories: Sequence[StoredMemory]) -> list[bool]:
        """Publish memories together, faster than one by one, and each whole or not at all.

        Args:
            memories: Memories whose ids differ and are known, so that this can be repeated.

        Returns:
            True for each that is new; False for one whose id is taken. What has that id stays as it
            is; `put_once` completes what an earlier attempt may have left.

        Raises:
            StoreFullError: There is no room for all; some may have been published.
            StoreUnavailableError: See the class; some may have been published.
        """

    async def complete_put(self, tenant: str, memory_id: str) -> StoredMemory:
        """Return a memory, once nothing of its `put_once` is missing any more.

        Raises:
            MemoryNotFoundError: No memory of the tenant has that id, or it has expired.
            StoreUnavailableError: See the class.
        """
        return await self.get(tenant, memory_id)

    @abstractmethod
    async def _publish(self, memory: StoredMemory, quota: Quota) -> None:
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
    async def replace(self, old: StoredMemory, new: StoredMemory, quota: Quota = NO_QUOTA) -> bool:
        """Replace a memory unless it has changed.

        Args:
            old: The memory as `get` returned it.
            new: The new memory, with the same id, tenant and time of creation.
            quota: Most that its tenant may have afterwards, where the memory grows.

        Returns:
            True if it was replaced; False if it had changed, and stays as it is.

        Raises:
            MemoryNotFoundError: No memory has that id, or it has expired.
            QuotaError: The tenant would have more than the quota.
            StoreFullError: There is no room for the new memory.
            StoreUnavailableError: See the class.
        """

    async def delete(self, tenant: str, memory_id: str) -> None:
        """Delete a memory of a tenant for good; a full store does that too.

        Raises:
            MemoryNotFoundError: No memory of the tenant has that id, or it has expired.
            StoreUnavailableError: See the class.
        """
        check_memory_id(memory_id)
        if not await self.delete_many(tenant, [memory_id]):
            raise not_found()

    @abstractmethod
    async def delete_many(self, tenant: str, memory_ids: Collection[str]) -> list[str]:
        """Delete memories of a tenant for good; return the ids of those that were there.

        Raises:
            StoreUnavailableError: See the class.
        """

    async def list_memories(
        self, tenant: str, wanted: MemoryFilter, *, limit: int, cursor: str | None = None
    ) -> MemoryList:
        """List memories of a tenant, the newest first.

        Parts joined by their cursors hold every memory that is there all the while exactly once,
        whatever else is stored or deleted meanwhile. The time of a call does not depend on the
        number of memories.

        Args:
            tenant: The tenant.
            wanted: Conditions on the memories.
            limit: Most memories to return.
            cursor: The cursor of the part before; None begins with the newest.

        Raises:
            StoreUnavailableError: See the class.
        """
        tag, before, found = wanted.tag(tenant), cursor or NEWEST, list[MemoryHead]()
        count, walked = limit + 1, 0
        while walked < MAX_WALKED:
            entries = await self._walk(tenant, tag, before, count)
            now = datetime.now(UTC)
            for position, head in entries:
                if len(found) == limit:
                    return MemoryList(found, before)
                before = position
                if head is not None and head.lives_at(now) and wanted.passes(head):
                    found.append(head)
            if len(entries) < count:
                return MemoryList(found, None)
            walked += count
            count *= 2  # few of them pass
        return MemoryList(found, before)

    @abstractmethod
    async def _walk(
        self, tenant: str, tag: str, before: str, count: int
    ) -> list[tuple[str, MemoryHead | None]]:
        """Return the next positions under a tag, with their heads; None where one cannot be read.

        Fewer than `count` are returned only at the end.

        Raises:
            StoreUnavailableError: See the class.
        """

    @abstractmethod
    async def total_usage(self) -> Usage:
        """Return what all tenants have together, without what is the service's own; see `usage`.

        It takes a time that grows with the number of tenants, not with that of memories.

        Raises:
            StoreUnavailableError: See the class.
        """

    @abstractmethod
    async def usage(self, tenant: str) -> Usage:
        """Return what a tenant has; what expired or was deleted within the last minute may count.

        Raises:
            StoreUnavailableError: See the class.
        """

    async def check_room(
        self, tenant: str, quota: Quota, added: Usage, *, counted: bool = False
    ) -> None:
        """Refuse what would take a tenant beyond its quota, before any work is spent on it.

        Args:
            tenant: The tenant.
            quota: Most that it may have.
            added: What would be added at least.
            counted: True where it is stored already, and may have to go again.

        Raises:
            QuotaError: The quota would be exceeded.
            StoreUnavailableError: See the class.
        """
        if quota == NO_QUOTA:
            return
        stored = added if counted else Usage()
        try:
            quota.check(await self.usage(tenant) - stored, added)
        except QuotaError:
            await self.sweep()
            quota.check(await self.usage(tenant) - stored, added)

    @abstractmethod
    async def sweep(self) -> None:
        """Remove what is left of expired memories; the store does so every minute by itself.

        Raises:
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

    async def take_token(self, key_id: str, per_second: int) -> float:
        """Take a token from the bucket of an API key, which holds a second's worth and refills.

        A store that only one service uses keeps its buckets in memory; a shared one shares them.

        Args:
            key_id: The key.
            per_second: Tokens that flow into the bucket, and that it holds.

        Returns:
            0, or the seconds until there is a token.

        Raises:
            StoreUnavailableError: See the class.
        """
        full_at, wait = spend_token(self._full_at.get(key_id, 0), time.time(), per_second)
        self._full_at[key_id] = full_at
        return wait

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


def spend_token(full_at: float, now: float, per_second: int) -> tuple[float, float]:
    """Spend a token of a bucket, which is known by the time at which it is full again.

    Args:
        full_at: That time, in seconds; in the past for a full bucket.
        now: The time now.
        per_second: Tokens that flow into the bucket, and that it holds.

    Returns:
        The time at which it is full after this, and the seconds until there is a token: 0 where
        one was spent.
    """
    after = max(full_at, now) + 1 / per_second
    wait = after - now - 1
    return (full_at, wait) if wait > 0 else (after, 0)


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
        tenant=PROBE_TENANT,
    )
