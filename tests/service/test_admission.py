"""Requests that are taken on or refused, and the time after which a client should come back."""

from types import SimpleNamespace
from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import OverloadedError
from gradmem_core.reading.sampling import Sampling
from service.engine.admission import (
    LARGEST_PART,
    WAIT_RATIO,
    Admission,
    AdmissionLimits,
    Deadline,
    Permit,
)
from service.engine.pace import Operation, Pace
from service.engine.work import DeviceWork, ReadWork, WriteWork

ROOMY = AdmissionLimits(tokens=10**9, seconds=1000, wait_seconds=10)
LATER = Deadline(1000, 1000)
CHECKPOINT = cast(
    "Checkpoint",
    SimpleNamespace(name="a", model=SimpleNamespace(config=SimpleNamespace(write_steps=5))),
)


def a_write(tokens: int) -> WriteWork:
    return WriteWork(CHECKPOINT, [0] * tokens, 1)


def a_read(*, pages: int = 1, queries: int = 1) -> ReadWork:
    return ReadWork(
        CHECKPOINT,
        torch.zeros(pages, 1, 1),
        [[0]] * queries,
        [Sampling(max_new_tokens=4)] * queries,
        [None] * pages,
    )


def at_one_a_second(limits: AdmissionLimits = ROOMY) -> Admission:
    """Return an admission for a device that does one unit of either operation a second."""
    pace = Pace()
    pace.observe("write", "a", 10, 10.0)
    pace.observe("read", "a", 10, 10.0)
    return Admission(limits, pace)


def admit(
    admission: Admission, work: DeviceWork, share: str = "x", *, seconds: float = 1000
) -> Permit:
    return admission.admit([work], share=share, deadline=Deadline(seconds, seconds))


def takes(admission: Admission, work: DeviceWork, share: str) -> bool:
    """Take a request on if that can be."""
    try:
        admit(admission, work, share)
    except OverloadedError:
        return False
    return True


def refused(admission: Admission, work: DeviceWork, share: str = "x") -> OverloadedError:
    with pytest.raises(OverloadedError) as caught:
        admit(admission, work, share)
    return caught.value


def test_a_request_that_would_wait_too_long_is_refused_until_it_would_not() -> None:
    admission = at_one_a_second()
    first = admit(admission, a_write(12))
    error = refused(admission, a_write(1))
    assert (error.retry_after, error.limit) == (2, 10)
    admission.finish(first, a_write(1))
    assert refused(admission, a_write(1)).retry_after == 1
    admission.finish(first, a_write(1))
    admit(admission, a_write(1))
    admission.release(first)
    admit(admission, a_write(9))


def test_a_long_document_may_wait_longer_and_any_is_taken_on_where_nothing_waits() -> None:
    admission = at_one_a_second()
    admit(admission, a_write(900))
    admit(admission, a_write(95), "y")
    assert refused(admission, a_write(9), "x").retry_after == 900 + 95 - WAIT_RATIO * 9
    long = admit(admission, a_read(queries=2000), seconds=1)
    admission.release(long)


def test_a_client_waits_for_its_own_work_and_as_much_of_the_others() -> None:
    admission = at_one_a_second()
    admit(admission, a_write(500), "greedy")
    for share in "bcdefghij":  # each waits for as much of the greedy one as its own
        admit(admission, a_write(1), share)
    admit(admission, a_write(1), "k")
    assert refused(admission, a_write(1), "l").retry_after == 1
    assert refused(admission, a_write(1), "greedy").retry_after >= 490


def test_reads_are_taken_on_beside_any_number_of_writes() -> None:
    admission = at_one_a_second(AdmissionLimits(tokens=100, seconds=1000))
    for share in "abcdefghij":
        while takes(admission, a_write(5), share):
            pass
    assert admission.tokens > 60
    admit(admission, a_read(), "a")
    admit(admission, a_read(), "z")


def test_a_request_is_refused_that_would_be_late() -> None:
    admission = at_one_a_second()
    admit(admission, a_write(9))
    with pytest.raises(OverloadedError) as caught:
        admit(admission, a_write(1), seconds=10)
    assert caught.value.retry_after == 2
    admit(admission, a_write(1), seconds=13)


def test_a_client_leaves_as_much_room_as_it_takes() -> None:
    admission = Admission(AdmissionLimits(tokens=800, seconds=10), Pace())
    taken = {"x": 0, "y": 0, "z": 0}
    for share in taken:
        while takes(admission, a_write(1), share):
            taken[share] += 1
    error = refused(admission, a_write(1), "z")
    assert (error.limit, error.retry_after) == (800, 1)
    assert taken == {"x": 300, "y": 150, "z": 75}
    admit(Admission(AdmissionLimits(tokens=8, seconds=10), Pace()), a_write(1000))


def test_a_large_request_counts_for_a_part_of_the_room() -> None:
    admission = Admission(AdmissionLimits(tokens=80, seconds=10), Pace())
    permit = admit(admission, a_write(1000))
    assert admission.tokens == permit.tokens == 80 // LARGEST_PART


def test_without_its_work_only_what_any_would_wait_for_is_refused() -> None:
    admission = at_one_a_second()
    admission.refuse_if_full("write", "x", units=10**9)
    admit(admission, a_write(12), "x")
    with pytest.raises(OverloadedError) as caught:
        admission.refuse_if_full("write", "x", units=1)
    assert caught.value.retry_after == 2
    admission.refuse_if_full("write", "x", units=2)
    admission.refuse_if_full("write", "y", units=1)
    admission.refuse_if_full("read", "x", units=1)


@given(
    sizes=st.lists(st.tuples(st.sampled_from("xyz"), st.integers(1, 60)), max_size=20),
    share=st.sampled_from("xyz"),
    size=st.integers(1, 60),
    most=st.integers(0, 100),
)
def test_what_is_refused_unread_would_have_been_refused(
    sizes: list[tuple[str, int]], share: str, size: int, most: int
) -> None:
    admission = at_one_a_second()
    for other, tokens in sizes:
        takes(admission, a_write(tokens), other)
    try:
        admission.refuse_if_full("write", share, units=size + most)
    except OverloadedError:
        refused(admission, a_write(size), share)


def test_nothing_is_left_of_requests_that_have_ended() -> None:
    admission = at_one_a_second()
    permits = [admit(admission, work, "x") for work in (a_write(3), a_read(), a_write(5))]
    admission.finish(permits[0], a_write(3))
    admission.finish(permits[0], a_write(3))  # a page that was split is written again
    admission.finish(permits[2], a_read())  # and read back
    for permit in permits:
        admission.release(permit)
    assert admission.tokens == 0
    assert admission._loads["write"].units == admission._loads["read"].units == {}


def test_the_pace_follows_what_the_device_does_lately() -> None:
    pace = Pace()
    assert pace.seconds("write", "a", 100) == pace.most_seconds("write", 100) == 0
    pace.observe("write", "a", 10, 10.0)
    assert pace.seconds("write", "a", 100) == pytest.approx(100)
    assert pace.seconds("read", "a", 100) == 0
    for _ in range(100):
        pace.observe("write", "a", 20, 10.0)
    assert pace.seconds("write", "a", 100) == pytest.approx(50)
    pace.observe("write", "b", 1, 2.0)
    assert pace.most_seconds("write", 100) == pytest.approx(200)


@pytest.mark.parametrize("operation", ["write", "read"])
def test_steps_without_answers_count_as_time(operation: Operation) -> None:
    pace = Pace()
    pace.observe(operation, "a", 0, 1.0)
    assert pace.seconds(operation, "a", 1) == 0
    pace.observe(operation, "a", 2, 1.0)
    assert pace.seconds(operation, "a", 1) == pytest.approx(1, rel=0.05)
