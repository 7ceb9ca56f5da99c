"""A ledger of every WRITE and DELETE that the service acknowledged, and a load that fills it."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice

import httpx

from gradmem_core.errors import DeviceError
from service.client import AsyncClient, ClientError, ConnectionFailed, NotFound, ProblemError

REQUEST_SECONDS = 60.0
"Time after which a request counts as unanswered."
READY_SECONDS = 120.0
"Time in which the service has to be ready again."
PAUSE_SECONDS = 0.02
"Pause of a worker after a refusal."
KEPT = 3
"One memory is deleted again for each so many that are written."


@dataclass
class Ledger:
    """The documents by the id of their memory, and the ids of the memories that were deleted."""

    stored: dict[str, str] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    acknowledged: int = 0
    "WRITEs acknowledged, of deleted memories too."
    refused: int = 0
    "Requests answered with a problem."
    cut: int = 0
    "Requests whose connection ended without an answer."
    unanswered: int = 0
    "Requests without an answer or an end of the connection."

    def take(self, other: "Ledger") -> None:
        """Add the entries of another ledger."""
        self.stored |= other.stored
        self.deleted |= other.deleted
        self.acknowledged += other.acknowledged
        self.refused += other.refused
        self.cut += other.cut
        self.unanswered += other.unanswered


@dataclass(frozen=True)
class Audit:
    """Differences between a ledger and the service."""

    lost: int
    "Memories that were acknowledged and are not there."
    wrong: int
    "Memories that are damaged, or of another document."
    undeleted: int
    "Memories whose deletion was acknowledged and that are there."


@asynccontextmanager
async def writing(
    url: str, ledger: Ledger, documents: Sequence[str], *, workers: int
) -> AsyncIterator[None]:
    """Write, and delete again, as long as the body runs; then wait for the last answers."""
    ended = asyncio.Event()
    tasks = [
        asyncio.create_task(_work(url, ledger, islice(cycle(documents), start, None), ended))
        for start in range(workers)
    ]
    try:
        yield
    finally:
        ended.set()
        await asyncio.gather(*tasks)


async def _work(url: str, ledger: Ledger, documents: Iterator[str], ended: asyncio.Event) -> None:
    async with AsyncClient(url, timeout_seconds=REQUEST_SECONDS, max_retries=0) as client:
        for turn, document in enumerate(documents):
            if ended.is_set():
                return
            try:
                await _write(client, ledger, document)
                if turn % KEPT == 0:
                    await _delete(client, ledger)
            except ProblemError:
                ledger.refused += 1
                await asyncio.sleep(PAUSE_SECONDS)
            except ConnectionFailed as error:
                if isinstance(error.__cause__, httpx.TimeoutException):
                    ledger.unanswered += 1
                else:
                    ledger.cut += 1
                await asyncio.sleep(PAUSE_SECONDS)


async def _write(client: AsyncClient, ledger: Ledger, document: str) -> None:
    memory = await client.write(
        document, steps=1, verify=False, metadata={"sha256": _digest(document)}
    )
    ledger.acknowledged += 1
    ledger.stored[memory.memory_id] = document


async def _delete(client: AsyncClient, ledger: Ledger) -> None:
    # Taken out first: after a failure nobody knows whether the memory is still there.
    memory_id, document = ledger.stored.popitem()
    try:
        await client.memory(memory_id).delete()
    except NotFound:
        ledger.stored[memory_id] = document  # which the audit finds to be lost
        raise
    ledger.deleted.add(memory_id)


async def audit(url: str, ledger: Ledger) -> Audit:
    """Hold the service against a ledger.

    Raises:
        ClientError: The service does not answer.
    """
    lost = wrong = undeleted = 0
    async with AsyncClient(url, timeout_seconds=REQUEST_SECONDS, max_retries=0) as client:
        for memory_id, document in ledger.stored.items():
            try:
                memory = await client.memory(memory_id).describe()
            except NotFound:
                lost += 1
                continue
            except ProblemError:
                wrong += 1
                continue
            wrong += memory.metadata != {"sha256": _digest(document)}
        for memory_id in ledger.deleted:
            undeleted += await _is_there(client, memory_id)
    return Audit(lost=lost, wrong=wrong, undeleted=undeleted)


def _digest(document: str) -> str:
    return hashlib.sha256(document.encode()).hexdigest()


async def _is_there(client: AsyncClient, memory_id: str) -> bool:
    try:
        await client.memory(memory_id).describe()
    except NotFound:
        return False
    return True


async def await_ready(url: str) -> float:
    """Wait until the service is ready; return the seconds that took.

    Raises:
        DeviceError: It took too long.
    """
    started = time.monotonic()
    async with AsyncClient(url, timeout_seconds=REQUEST_SECONDS, max_retries=0) as client:
        while not await _is_ready(client):
            if time.monotonic() - started > READY_SECONDS:
                raise DeviceError(f"the service was not ready within {READY_SECONDS:g} s")
            await asyncio.sleep(0.01)
    return time.monotonic() - started


async def _is_ready(client: AsyncClient) -> bool:
    try:
        return await client.ready()
    except ClientError:
        return False
