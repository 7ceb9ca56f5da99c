"""Fill stores to different sizes, and time their operations in turn."""

import hashlib
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from benchmarks.reliability_rows import StoreScale
from gradmem_core.tenants import DEFAULT_TENANT
from service.load import percentiles
from service.stores import MemoryFilter, Store, StoredMemory

BATCH = 500
"Memories that are stored together while a store is filled."
BLOB = bytes(256)
GROUPS = 10
"Values of the metadata that a list asks for; the smallest store has a whole list of each."
LISTED = 50
"Memories of a list."
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class FilledStore:
    """A store with memories of successive numbers: the lowest is deleted, the next is put."""

    store: Store
    memories: int
    "Number of memories, which stays the same."
    random: random.Random
    lowest: int = 0
    following: int = 0
    seconds: dict[str, list[float]] = field(default_factory=dict)
    "Durations by operation."

    async def fill(self) -> None:
        """Store the memories."""
        while self.following < self.memories:
            numbers = range(self.following, min(self.following + BATCH, self.memories))
            await self.store.put_many(list(map(make_memory, numbers)))
            self.following = numbers.stop

    async def time(self, operation: str) -> None:
        """Carry out an operation, and note how long it takes."""
        work = OPERATIONS[operation](self)
        started = time.perf_counter()
        await work
        self.seconds.setdefault(operation, []).append(time.perf_counter() - started)

    def list(self) -> Awaitable[object]:
        """List the newest memories."""
        return self.store.list_memories(DEFAULT_TENANT, MemoryFilter(), limit=LISTED)

    def list_group(self) -> Awaitable[object]:
        """List the newest memories with an entry of metadata."""
        wanted = MemoryFilter(metadata={"group": str(self.random.randrange(GROUPS))})
        return self.store.list_memories(DEFAULT_TENANT, wanted, limit=LISTED)

    def get(self) -> Awaitable[object]:
        """Get any memory."""
        number = self.random.randrange(self.lowest, self.following)
        return self.store.get(DEFAULT_TENANT, id_of(number))

    def delete(self) -> Awaitable[object]:
        """Delete the memory of the lowest number."""
        self.lowest += 1
        return self.store.delete(DEFAULT_TENANT, id_of(self.lowest - 1))

    def put(self) -> Awaitable[object]:
        """Put the memory of the next number."""
        self.following += 1
        return self.store.put(make_memory(self.following - 1))


OPERATIONS: Mapping[str, Callable[[FilledStore], Awaitable[object]]] = {
    "list": FilledStore.list,
    "list by metadata": FilledStore.list_group,
    "get": FilledStore.get,
    "delete": FilledStore.delete,
    "put": FilledStore.put,
}


async def measure_sizes(
    stores: Sequence[Store], sizes: Sequence[int], *, kind: str, rounds: int, seed: int
) -> list[StoreScale]:
    """Time the operations of stores of different sizes in turn, so that they share all company.

    Args:
        stores: Open empty stores.
        sizes: The number of memories of each.
        kind: Name of the kind of stores.
        rounds: Times that each operation is carried out in each store.
        seed: Seed of what is listed and fetched.
    """
    filled = [
        FilledStore(store, size, random.Random(seed))  # noqa: S311
        for store, size in zip(stores, sizes, strict=True)
    ]
    for each in filled:
        await each.fill()
    for turn in range(rounds):
        first = turn % len(filled)
        for operation in OPERATIONS:
            for each in filled[first:] + filled[:first]:
                await each.time(operation)
    return [row for each in filled for row in _describe(each, kind)]


def _describe(filled: FilledStore, kind: str) -> Iterator[StoreScale]:
    for operation, seconds in filled.seconds.items():
        p50, p99 = percentiles(seconds)
        yield StoreScale(
            store=kind,
            memories=filled.memories,
            operation=operation,
            calls=len(seconds),
            p50=p50,
            p99=p99,
        )


def make_memory(number: int) -> StoredMemory:
    """Make the memory of a number; higher ones are newer."""
    return StoredMemory(
        memory_id=id_of(number),
        model="none",
        blob=BLOB,
        metadata={"group": str(number % GROUPS)},
        created_at=START + timedelta(seconds=number),
    )


def id_of(number: int) -> str:
    """Return the id of the memory of a number; ids are as good as random."""
    return hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest()
