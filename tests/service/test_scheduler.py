"""The scheduler, with a device without a model and a clock that only the test moves."""

from types import SimpleNamespace
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import (
    DeadlineError,
    DeviceError,
    EngineStoppedError,
    OutOfMemoryError,
)
from gradmem_core.reading.sampling import Sampling
from gradmem_core.writing.compression import WrittenPage
from service.engine.pace import Pace
from service.engine.scheduler import BURST, FATAL, BatchLimits, Scheduler
from service.engine.shares import MOST_ABSENT, FairShares
from service.engine.work import DeviceWork, ReadWork, WriteWork
from service.telemetry import Telemetry
from tests.service.fake_device import NEVER, Clock, FakeDevice, RecordingJob

LIMITS = BatchLimits(batch_tokens=40, batch_queries=6)
ROOMY = BatchLimits(batch_tokens=10_000, batch_queries=10_000)
LONGEST_ANSWER = 4
CHECKPOINTS = [cast("Checkpoint", SimpleNamespace(name=name, parameters=10)) for name in ("a", "b")]


def a_write(number: int, *, tokens: int = 5, steps: int = 3, checkpoint: int = 0) -> WriteWork:
    return WriteWork(CHECKPOINTS[checkpoint], [number] * tokens, steps)


def a_read(number: int, *, queries: int = 1, answer: int = 2, checkpoint: int = 0) -> ReadWork:
    sampling = [Sampling(max_new_tokens=answer)] * queries
    prompts = [[number, query] for query in range(queries)]
    return ReadWork(CHECKPOINTS[checkpoint], torch.zeros(1, 1, 1), prompts, sampling, [None])


def check_own_answer(job: RecordingJob) -> None:
    """Assert that a job was answered once, with its own result."""
    (outcome,) = job.outcomes
    if isinstance(job.work, WriteWork):
        assert isinstance(outcome, WrittenPage)
        assert outcome.memory.item() == job.work.context_ids[0]
        assert outcome.steps == job.work.steps == len(job.events)
    else:
        assert isinstance(outcome, list)
        number = job.work.queries[0][0]
        assert [a.tokens for a in outcome] == [[number, q] for q in range(len(outcome))]
        assert len(outcome) == len(job.work.queries)


def run_to_end(scheduler: Scheduler, *, clock: Clock | None = None, turns: int = 10_000) -> None:
    for _ in range(turns):
        if not scheduler.busy:
            return
        if clock is not None:
            clock.turn_began = clock.now
        scheduler.turn()
    raise AssertionError("the scheduler never comes to an end")


write_plans = st.builds(
    lambda tokens, steps, checkpoint: ("write", tokens, steps, checkpoint),
    st.integers(1, 50),
    st.integers(1, 6),
    st.integers(0, 1),
)
read_plans = st.builds(
    lambda queries, answer, checkpoint: ("read", queries, answer, checkpoint),
    st.integers(1, 8),
    st.integers(1, LONGEST_ANSWER),
    st.integers(0, 1),
)
arrivals = st.lists(st.tuples(st.integers(0, 40), st.one_of(write_plans, read_plans)), max_size=30)


def make_jobs(
    plan: list[tuple[int, tuple[str, int, int, int]]], clock: Clock, life: dict[int, float]
) -> list[tuple[int, RecordingJob]]:
    """Return the jobs of three clients, in turn, with the turns at which they arrive."""
    jobs = []
    for number, (turn, (kind, size, length, checkpoint)) in enumerate(plan):
        work: DeviceWork
        if kind == "write":
            work = a_write(number, tokens=size, steps=length, checkpoint=checkpoint)
        else:
            work = a_read(number, queries=size, answer=length, checkpoint=checkpoint)
        deadline = clock.now + turn + life.get(number, NEVER)
        jobs.append((turn, RecordingJob(work, deadline=deadline, share="xyz"[number % 3])))
    return jobs


@settings(max_examples=300, deadline=None)
@given(
    plan=arrivals,
    leaves=st.dictionaries(st.integers(0, 29), st.integers(0, 60)),
    life=st.dictionaries(st.integers(0, 29), st.floats(0, 60)),
    poisoned=st.sets(st.integers(0, 29), max_size=3),
    faults=st.dictionaries(
        st.integers(0, 60), st.sampled_from([RuntimeError, torch.OutOfMemoryError])
    ),
    room=st.integers(1, 20),
)
def test_every_job_is_answered_once_with_its_own_result(
    plan: list[tuple[int, tuple[str, int, int, int]]],
    leaves: dict[int, int],
    life: dict[int, float],
    poisoned: set[int],
    faults: dict[int, type[Exception]],
    room: int,
) -> None:
    clock = Clock()
    device = FakeDevice(clock, poisoned, room, faults)
    scheduler = Scheduler(device, LIMITS, Telemetry(), clock=clock)
    jobs = make_jobs(plan, clock, life)
    for turn in range(62):
        for number, (arrival, job) in enumerate(jobs):
            if arrival == turn:
                scheduler.add(job)
            if leaves.get(number) == turn:
                job.left = True
        clock.turn_began = clock.now
        scheduler.turn()
    run_to_end(scheduler, clock=clock)
    assert device.decoding == []
    for number, (_, job) in enumerate(jobs):
        assert len(job.outcomes) <= 1
        assert job.left or job.outcomes
        if not job.outcomes or isinstance(job.outcomes[0], OutOfMemoryError | DeviceError):
            continue
        if isinstance(job.outcomes[0], DeadlineError):
            assert number in life
        else:
            assert number not in poisoned
            check_own_answer(job)
        # A turn that began in time may repeat a failed batch in parts.
        turns = [began for _, items, began in device.trace if number in items]
        assert all(began < job.deadline for began in turns)


@settings(max_examples=200, deadline=None)
@given(plan=arrivals, poisoned=st.sets(st.integers(0, 29), max_size=4))
def test_only_poisoned_jobs_fail(
    plan: list[tuple[int, tuple[str, int, int, int]]], poisoned: set[int]
) -> None:
    clock = Clock()
    device = FakeDevice(clock, poisoned)
    scheduler = Scheduler(device, LIMITS, Telemetry(), clock=clock)
    jobs = make_jobs(plan, clock, {})
    for _, job in jobs:
        scheduler.add(job)
    run_to_end(scheduler)
    for number, (_, job) in enumerate(jobs):
        if number in poisoned:
            assert [type(outcome) for outcome in job.outcomes] == [DeviceError]
        else:
            check_own_answer(job)


@settings(max_examples=200, deadline=None)
@given(plan=arrivals)
def test_a_read_waits_for_one_gradient_step_and_a_write_for_one_burst(
    plan: list[tuple[int, tuple[str, int, int, int]]],
) -> None:
    clock = Clock()
    device = FakeDevice(clock)
    scheduler = Scheduler(device, ROOMY, Telemetry(), clock=clock)
    jobs = make_jobs(plan, clock, {})
    added: dict[int, int] = {}
    waiting_since: int | None = None
    for turn in range(400):
        for number, (arrival, job) in enumerate(jobs):
            if arrival == turn:
                scheduler.add(job)
                added[number] = len(device.trace)
        writes_wait = bool(scheduler._writes)
        scheduler.turn()
        if device.trace and device.trace[-1][0] == "write":
            waiting_since = None
        elif writes_wait:
            waiting_since = turn if waiting_since is None else waiting_since
            assert turn - waiting_since <= BURST + 2 * LONGEST_ANSWER + 2
    for number, (_, job) in enumerate(jobs):
        check_own_answer(job)
        if isinstance(job.work, ReadWork):
            calls = device.trace[added[number] :]
            own = [index for index, (_, items, _) in enumerate(calls) if number in items]
            names = [name for name, *_ in calls]
            assert names[: own[0]].count("write") <= 1
            assert "write" not in names[own[0] : own[-1]]


@settings(max_examples=100, deadline=None)
@given(
    queues=st.lists(
        st.lists(st.tuples(st.integers(1, 40), st.integers(1, 4), st.integers(0, 1)), min_size=3),
        min_size=2,
        max_size=4,
    )
)
def test_whoever_had_least_has_its_first_page_in_the_next_gradient_step(
    queues: list[list[tuple[int, int, int]]],
) -> None:
    device = FakeDevice(Clock())
    scheduler = Scheduler(device, LIMITS, Telemetry(), clock=device.clock)
    shares = [f"client {number}" for number in range(len(queues))]
    work_of: dict[int, tuple[str, WriteWork]] = {}
    for share, queue in zip(shares, queues, strict=True):
        for tokens, steps, checkpoint in queue:
            number = len(work_of)
            work = a_write(number, tokens=tokens, steps=steps, checkpoint=checkpoint)
            work_of[number] = (share, work)
            scheduler.add(RecordingJob(work, share=share))
    had = dict.fromkeys(shares, 0)
    while {job.share for job in scheduler._writes.values()} == set(shares):
        waiting = list(scheduler._writes.items())
        least = min(had.values())
        firsts = {job.share: write.work.context_ids[0] for write, job in reversed(waiting)}
        scheduler.turn()
        _, items, _ = device.trace[-1]
        assert any(firsts[share] in items for share in shares if had[share] == least)
        for number in items:
            share, work = work_of[number]
            had[share] += work.tokens
    run_to_end(scheduler)


def test_a_small_document_does_not_wait_for_the_large_one_of_another_client() -> None:
    device = FakeDevice(Clock())
    scheduler = Scheduler(device, LIMITS, Telemetry(), clock=device.clock)
    for number in range(50):
        scheduler.add(RecordingJob(a_write(number, tokens=10, steps=5), share="large"))
    scheduler.turn()
    small = RecordingJob(a_write(1000, tokens=3, steps=3), share="small")
    scheduler.add(small)
    for _ in range(4):
        scheduler.turn()
    check_own_answer(small)
    begun = [job for job in scheduler._writes.values() if job.begun]
    assert len(begun) == LIMITS.batch_tokens // 10  # they paused, and go on


def test_a_client_that_comes_back_has_no_turns_saved_up() -> None:
    device = FakeDevice(Clock())
    scheduler = Scheduler(device, LIMITS, Telemetry(), clock=device.clock)
    for number in range(10):
        scheduler.add(RecordingJob(a_write(number, tokens=40, steps=1), share="x"))
        scheduler.turn()
    for number in range(10, 14):
        scheduler.add(RecordingJob(a_write(number, tokens=40, steps=1), share="y"))
        scheduler.add(RecordingJob(a_write(number + 10, tokens=40, steps=1), share="x"))
    run_to_end(scheduler)
    assert [items for _, items, _ in device.trace[10:]] == [
        [number] for pair in zip(range(10, 14), range(20, 24), strict=True) for number in pair
    ]


def test_clients_that_came_once_are_forgotten() -> None:
    shares = FairShares[str](lambda client: client, lambda _: 1)
    clients = [f"client {number}" for number in range(3000)]
    for client in clients:
        assert list(shares.order([client])) == [client]
        shares.charge([client])
    assert list(shares.order([clients[-2], "new"])) == ["new", clients[-2]]  # it had a turn lately
    assert len(shares._had) <= MOST_ABSENT + 2


def test_queries_of_clients_take_turns() -> None:
    device = FakeDevice(Clock())
    scheduler = Scheduler(device, LIMITS, Telemetry(), clock=device.clock)
    for number in range(10):
        scheduler.add(RecordingJob(a_read(number, queries=6), share="large"))
    scheduler.turn()
    small = RecordingJob(a_read(1000), share="small")
    scheduler.add(small)
    for _ in range(3):
        scheduler.turn()
    check_own_answer(small)


def test_the_pace_is_measured_while_there_is_work() -> None:
    clock, pace = Clock(), Pace()
    scheduler = Scheduler(FakeDevice(clock), LIMITS, Telemetry(), pace=pace, clock=clock)
    clock.now = 50
    scheduler.add(RecordingJob(a_write(0, tokens=10, steps=4)))
    run_to_end(scheduler)  # each call of the device takes a second
    assert pace.seconds("write", "a", 10) == pytest.approx(1)
    clock.now = 100
    scheduler.add(RecordingJob(a_read(1, answer=3)))
    run_to_end(scheduler)
    assert pace.seconds("read", "a", 1) == pytest.approx(4, rel=0.1)  # it begins, and three tokens
    assert pace.seconds("write", "b", 10) == 0


def test_writes_proceed_under_an_endless_stream_of_reads() -> None:
    clock = Clock()
    device = FakeDevice(clock)
    scheduler = Scheduler(device, LIMITS, Telemetry(), clock=clock)
    write = RecordingJob(a_write(0, steps=5))
    scheduler.add(write)
    for number in range(1, 400):
        scheduler.add(RecordingJob(a_read(number)))
        scheduler.turn()
    check_own_answer(write)


def test_documents_join_between_steps_and_leave_when_done() -> None:
    clock = Clock()
    device = FakeDevice(clock)
    scheduler = Scheduler(device, ROOMY, Telemetry(), clock=clock)
    for number, steps in ((0, 3), (1, 1), (2, 2)):
        scheduler.add(RecordingJob(a_write(number, steps=steps)))
        scheduler.turn()
    run_to_end(scheduler)
    assert [items for _, items, _ in device.trace] == [[0], [0, 1], [0, 2], [2]]


def test_a_batch_holds_similar_lengths_within_its_limit() -> None:
    clock = Clock()
    device = FakeDevice(clock)
    scheduler = Scheduler(device, LIMITS, Telemetry(), clock=clock)
    for number, tokens in enumerate((10, 30, 12, 18, 10, 4)):
        scheduler.add(RecordingJob(a_write(number, tokens=tokens, steps=1)))
    run_to_end(scheduler)
    assert [items for _, items, _ in device.trace] == [[0, 2, 4], [1], [3], [5]]


def test_the_oldest_document_is_not_overtaken_forever() -> None:
    clock = Clock()
    device = FakeDevice(clock)
    scheduler = Scheduler(device, LIMITS, Telemetry(), clock=clock)
    scheduler.add(RecordingJob(a_write(0, tokens=5, steps=2)))
    scheduler.turn()
    long = RecordingJob(a_write(1000, tokens=40))
    scheduler.add(long)
    for number in range(1, 200):
        scheduler.add(RecordingJob(a_write(number, tokens=5, steps=2)))
        scheduler.turn()
    check_own_answer(long)
    first = next(i for i, (_, items, _) in enumerate(device.trace) if 1000 in items)
    assert first == 2  # after both steps of the one before it


def test_a_batch_that_exceeds_memory_is_halved_once() -> None:
    clock = Clock()
    device = FakeDevice(clock, room=2)
    scheduler = Scheduler(device, ROOMY, Telemetry(), clock=clock)
    jobs = [RecordingJob(a_write(number, steps=1)) for number in range(3)]
    for job in jobs:
        scheduler.add(job)
    scheduler.turn()
    for job in jobs:
        check_own_answer(job)
    jobs = [RecordingJob(a_write(number, steps=1)) for number in range(6)]
    for job in jobs:
        scheduler.add(job)
    scheduler.turn()
    assert [type(job.outcomes[0]) for job in jobs] == [OutOfMemoryError] * 6
    assert not scheduler.busy


@pytest.mark.parametrize("call", range(6))
def test_after_a_fatal_error_every_job_can_still_be_answered(call: int) -> None:
    clock = Clock()
    device = FakeDevice(clock, faults={call: FATAL[0]})
    scheduler = Scheduler(device, LIMITS, Telemetry(), clock=clock)
    jobs = [
        RecordingJob(work) for work in (a_write(0), a_read(1), a_read(2, queries=6), a_write(3))
    ]
    for job in jobs:
        scheduler.add(job)
    with pytest.raises(FATAL):
        run_to_end(scheduler)
    scheduler.abandon(EngineStoppedError("stopped"))
    assert all(len(job.outcomes) == 1 for job in jobs)
    assert not scheduler.busy


def test_reads_that_fail_together_are_repeated_apart() -> None:
    clock = Clock()
    device = FakeDevice(clock, faults={2: RuntimeError})
    scheduler = Scheduler(device, LIMITS, Telemetry(), clock=clock)
    jobs = [RecordingJob(a_read(number, answer=3)) for number in range(3)]
    for job in jobs:
        scheduler.add(job)
    run_to_end(scheduler)
    for job in jobs:
        check_own_answer(job)
    assert [name for name, *_ in device.trace] == ["begin", "token", "token", "apart"]


def test_batches_of_large_models_hold_fewer_tokens() -> None:
    checkpoint = cast("Checkpoint", SimpleNamespace(parameters=50))
    bounded = BatchLimits(batch_tokens=40, batch_queries=6, step_work=500)
    assert bounded.tokens_of(checkpoint) == 10
    roomy = BatchLimits(batch_tokens=40, batch_queries=6, step_work=5000)
    assert roomy.tokens_of(checkpoint) == LIMITS.tokens_of(checkpoint) == 40
