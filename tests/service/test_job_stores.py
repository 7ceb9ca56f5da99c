"""Jobs in both stores."""

import asyncio
import random
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.idempotency import derive_id
from service.stores import NEWEST, JobTask, MemoryFilter, Store, StoredJob, create_store

pytestmark = pytest.mark.anyio

LEASE = timedelta(seconds=30)
SHORT = timedelta(seconds=0.2)
KEEP = timedelta(hours=1)
WORKER = """
import asyncio, sys
from datetime import UTC, datetime, timedelta
from service.idempotency import derive_id
from service.stores import StoredMemory, create_store

async def work(store):
    while True:
        task = await store.jobs.take(timedelta(seconds=1))
        if task is None:
            await asyncio.sleep(0.05)
            continue
        print(task.number, flush=True)
        memory = StoredMemory(
            memory_id=derive_id(task.seed, str(task.number)),
            model="tiny",
            blob=task.document,
            metadata={},
            created_at=datetime.now(UTC),
        )
        await store.put_once(memory)
        await store.jobs.finish(task, b"done", written=True, keep=timedelta(hours=1))

async def main():
    async with create_store(sys.argv[1]) as store:
        await asyncio.gather(*(work(store) for _ in range(3)))

asyncio.run(main())
"""
"Writes the documents of jobs for ever; prints the number of each that it takes."


@pytest.fixture(params=["sqlite", "redis"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/memories.db"
    server = request.getfixturevalue("own_redis")
    return str(server.url)


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    async with create_store(store_url) as opened:
        yield opened


def a_job(documents: int, **fields: object) -> StoredJob:
    job = StoredJob(
        tenant="default",
        job_id=secrets.token_hex(16),
        seed=secrets.token_hex(16),
        documents=documents,
        created_at=datetime.now(UTC),
    )
    return replace(job, **fields)  # type: ignore[arg-type]


def bodies(job: StoredJob) -> list[bytes]:
    return [f"{job.job_id} {number}".encode() for number in range(job.documents)]


async def add(store: Store, job: StoredJob) -> StoredJob:
    assert await store.jobs.add(job, bodies(job), most=100)
    return job


async def take(store: Store, lease: timedelta = LEASE) -> JobTask:
    task = await store.jobs.take(lease)
    assert task is not None
    return task


async def finish(store: Store, task: JobTask, *, written: bool = True) -> StoredJob | None:
    result = f"done {task.number}".encode()
    return await store.jobs.finish(task, result, written=written, keep=KEEP)


async def test_a_job_is_done_document_by_document(store: Store) -> None:
    job = await add(store, a_job(6))
    assert await store.jobs.find(job.tenant, job.job_id) == job
    assert await store.jobs.count() == 1
    for number in range(6):
        task = await take(store)
        assert (task.number, task.seed) == (number, job.seed)
        assert task.document == bodies(job)[number]
        counted = await finish(store, task, written=number != 2)
        assert counted is not None
        assert counted.written + counted.failed == number + 1
        assert (counted.ended_at is None) == (number < 5)
    assert await store.jobs.take(LEASE) is None
    assert await store.jobs.count() == 0
    ended = await store.jobs.find(job.tenant, job.job_id)
    assert ended is not None
    assert ended == counted
    assert (ended.written, ended.failed, ended.begun) == (5, 1, True)
    assert ended.ended_at is not None
    assert ended.expires_at == ended.ended_at + KEEP
    assert await store.jobs.find_results(ended) == [f"done {n}".encode() for n in range(6)]


async def test_jobs_take_turns(store: Store) -> None:
    large, small = await add(store, a_job(20)), await add(store, a_job(1))
    order = []
    for _ in range(6):
        task = await take(store)
        order.append(task.job_id)
        await finish(store, task)
    assert small.job_id in order
    assert order.count(large.job_id) == 5


async def test_a_lost_lease_is_taken_over(store: Store) -> None:
    await add(store, a_job(1))
    lost = await take(store, SHORT)
    assert await store.jobs.take(SHORT) is None
    await asyncio.sleep(0.25)
    second = await take(store, SHORT)
    assert (second.number, second.attempts, lost.attempts) == (0, 2, 1)
    assert not await store.jobs.renew(lost, SHORT)
    await store.jobs.give_back(lost)
    for _ in range(4):
        await asyncio.sleep(0.1)
        assert await store.jobs.renew(second, SHORT)
    assert await store.jobs.take(SHORT) is None


async def test_a_document_given_back_is_taken_at_once(store: Store) -> None:
    await add(store, a_job(1))
    await store.jobs.give_back(await take(store))
    task = await take(store)
    assert task.attempts == 1
    assert await store.jobs.take(LEASE) is None


async def test_a_document_is_finished_once(store: Store) -> None:
    job = await add(store, a_job(2))
    first = await take(store, SHORT)
    await asyncio.sleep(0.25)
    second = await take(store, SHORT)
    assert second.number == first.number
    assert await finish(store, second) is not None
    assert await finish(store, first, written=False) is None
    found = await store.jobs.find(job.tenant, job.job_id)
    assert found is not None
    assert (found.written, found.failed) == (1, 0)
    third = await take(store)
    assert third.number == 1
    assert await store.jobs.take(LEASE) is None


async def test_a_cancelled_job_is_not_gone_on_with(store: Store) -> None:
    job = await add(store, a_job(9))
    task = await take(store)
    assert await store.jobs.cancel(job.tenant, job.job_id, keep=KEEP)
    assert not await store.jobs.cancel(job.tenant, job.job_id, keep=KEEP)
    assert await store.jobs.take(LEASE) is None
    assert await store.jobs.count() == 0
    await finish(store, task)
    found = await store.jobs.find(job.tenant, job.job_id)
    assert found is not None
    assert (found.cancelled, found.written) == (True, 1)
    assert found.ended_at is not None
    assert await store.jobs.find_results(found) == [b"done 0", *[None] * 8]
    assert await store.jobs.remove(job.tenant, job.job_id)
    assert await store.jobs.find(job.tenant, job.job_id) is None
    assert await finish(store, task) is None
    assert not await store.jobs.remove(job.tenant, job.job_id)


async def test_jobs_are_listed_and_limited_by_tenant(store: Store) -> None:
    now = datetime.now(UTC)
    jobs = [a_job(1, created_at=now + timedelta(seconds=number)) for number in range(5)]
    for job in jobs:
        await add(store, job)
    foreign = await add(store, a_job(1, tenant="another"))
    listed = await store.jobs.list_jobs("default", before=NEWEST, limit=3)
    assert listed == jobs[:1:-1]
    rest = await store.jobs.list_jobs("default", before=listed[-1].position, limit=3)
    assert rest == jobs[1::-1]
    assert await store.jobs.find("default", foreign.job_id) is None
    assert not await store.jobs.cancel("default", foreign.job_id, keep=KEEP)
    assert not await store.jobs.add(a_job(1), [b""], most=5)
    assert await store.jobs.add(jobs[0], bodies(jobs[0]), most=5)  # it is there already
    assert await store.jobs.add(a_job(1, tenant="another"), [b""], most=5)
    assert not await store.jobs.remove("default", jobs[0].job_id)  # it has not ended


async def test_the_oldest_ended_jobs_of_a_tenant_are_removed(store: Store) -> None:
    now = datetime.now(UTC)
    jobs = [a_job(1, created_at=now + timedelta(seconds=number)) for number in range(5)]
    for job in jobs:
        await add(store, job)
    foreign = await add(store, a_job(1, tenant="another"))
    for job in (foreign, *jobs[:4]):
        assert await store.jobs.cancel(job.tenant, job.job_id, keep=KEEP)
    await store.jobs.remove_oldest("default", most=2)
    listed = await store.jobs.list_jobs("default", before=NEWEST, limit=10)
    assert [job.job_id for job in listed] == [job.job_id for job in jobs[:1:-1]]
    assert await store.jobs.find("another", foreign.job_id) is not None


async def test_an_ended_job_expires(store: Store) -> None:
    job = await add(store, a_job(1))
    await store.jobs.finish(await take(store), b"", written=True, keep=timedelta(seconds=0.2))
    await asyncio.sleep(0.3)
    assert await store.jobs.find(job.tenant, job.job_id) is None
    assert await store.jobs.list_jobs(job.tenant, before=NEWEST, limit=5) == []


async def test_the_end_is_told_until_that_is_settled(store: Store) -> None:
    job = await add(store, a_job(1, webhook=b"sealed"))
    assert await store.jobs.take_delivery(SHORT) is None
    await finish(store, await take(store))
    for attempt in (1, 2):
        due = await store.jobs.take_delivery(SHORT)
        assert due is not None
        assert (due.job_id, due.deliveries, due.webhook) == (job.job_id, attempt, b"sealed")
        assert await store.jobs.take_delivery(SHORT) is None
        await asyncio.sleep(0.25)
    await store.jobs.settle_delivery(job, again_at=datetime.now(UTC) + SHORT)
    assert await store.jobs.take_delivery(SHORT) is None
    await asyncio.sleep(0.25)
    assert await store.jobs.take_delivery(SHORT) is not None
    await store.jobs.settle_delivery(job, again_at=None)
    await asyncio.sleep(0.25)
    assert await store.jobs.take_delivery(SHORT) is None


async def test_services_never_have_the_same_document(store_url: str) -> None:
    async with create_store(store_url) as one, create_store(store_url) as two:
        jobs = [await add(one, a_job(12)) for _ in range(2)]
        taken: list[tuple[str, int]] = []

        async def work(store: Store) -> None:
            while (task := await store.jobs.take(LEASE)) is not None:
                taken.append((task.job_id, task.number))
                await asyncio.sleep(0)
                await finish(store, task)

        await asyncio.gather(*(work(store) for store in (one, two, one, two)))
        while len(taken) < 24:
            await work(one)
    assert len(set(taken)) == len(taken) == 24
    assert {job_id for job_id, _ in taken} == {job.job_id for job in jobs}


@pytest.mark.slow
async def test_killed_workers_write_each_document_once(store_url: str) -> None:
    moments, jobs = random.Random(1), [a_job(40) for _ in range(3)]
    async with create_store(store_url) as store:
        for job in jobs:
            await add(store, job)
    for _ in range(4):
        await asyncio.to_thread(kill_worker, store_url, moments.randrange(1, 20), moments.random())
    async with create_store(store_url) as store:
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", WORKER, store_url), stdout=subprocess.DEVNULL
        )
        async with asyncio.timeout(60):
            while await store.jobs.count():
                await asyncio.sleep(0.1)
        worker.kill()
        await worker.wait()
        listed = await store.list_memories("default", MemoryFilter(), limit=200)
        assert {memory.memory_id for memory in listed.memories} == {
            derive_id(job.seed, str(number)) for job in jobs for number in range(40)
        }
        for job in jobs:
            ended = await store.jobs.find(job.tenant, job.job_id)
            assert ended is not None
            assert (ended.written, ended.failed) == (40, 0)
            assert await store.jobs.find_results(ended) == [b"done"] * 40


def kill_worker(store_url: str, documents: int, moment: float) -> None:
    """Kill a worker (`kill -9`) some hundredths of a second after it has taken some documents."""
    command = [sys.executable, "-c", WORKER, store_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        for _ in range(documents):
            assert worker.stdout.readline(), "the worker ended by itself"
        time.sleep(moment / 50)
        worker.kill()
