"""Load generators: their figures on requests whose times and outcomes are known."""

import asyncio
from collections import Counter

import pytest

from benchmarks.serving import overload
from benchmarks.serving.documents import draw_documents
from gradmem_core.errors import OverloadedError
from service.client import ConnectionFailed, Overloaded, Unavailable
from service.load import Request, measure_load, percentiles, summarize
from service.schemas import Problem


@pytest.mark.parametrize(
    ("latencies", "expected"),
    [
        ([7.0], (7, 7)),
        ([4.0, 1.0, 2.0, 3.0], (2, 4)),
        ([float(n) for n in range(1, 101)], (50, 99)),
        ([float(n) for n in range(1, 102)], (51, 100)),
    ],
)
def test_percentiles_are_of_the_nearest_rank(
    latencies: list[float], expected: tuple[float, float]
) -> None:
    assert percentiles(latencies) == expected


def test_requests_cut_by_the_window_count_by_their_share() -> None:
    answered = [(0.0, 1.0), (0.0, 4.0), (2.0, 3.0), (3.0, 5.0), (4.0, 6.0)]
    figures = summarize(answered, [OverloadedError("full")], begin=2, end=4)
    assert figures.throughput == pytest.approx((0.5 + 1 + 0.5) / 2)
    assert (figures.p50, figures.p99) == (2, 4)
    assert (figures.seconds, figures.answered, figures.failed) == (2, 5, 1)


@pytest.mark.anyio
async def test_every_request_is_answered_or_counted_as_failed() -> None:
    calls: list[int] = []

    async def request() -> None:
        calls.append(len(calls))
        if calls[-1] % 3 == 0:
            raise OverloadedError("full")
        await asyncio.sleep(0.001)

    figures = await measure_load([request], concurrency=4, seconds=0.1)
    assert len(calls) > 30
    assert figures.failed == len(range(0, len(calls), 3))
    assert figures.answered == len(calls) - figures.failed


@pytest.mark.anyio
async def test_a_load_of_failures_is_their_error() -> None:
    async def request() -> None:
        raise OverloadedError("full")

    with pytest.raises(OverloadedError, match="full"):
        await measure_load([request], concurrency=2, seconds=0.01)


@pytest.mark.anyio
async def test_a_window_shorter_than_a_request_has_its_throughput() -> None:
    async def request() -> None:
        await asyncio.sleep(0.2)

    figures = await measure_load([request], concurrency=2, seconds=0.01)
    assert 0 < figures.throughput < 11
    assert (figures.answered, figures.failed) == (2, 0)


@pytest.mark.anyio
async def test_every_outcome_of_an_overload_is_counted() -> None:
    problem = Problem(type="about:blank", title="", status=500, detail="")
    errors = {
        "succeeded": None,
        "refused": Overloaded(problem, status=429),
        "failed": Unavailable(problem, status=503),
        "unanswered": ConnectionFailed(),
    }
    calls: list[str] = []

    def request(kind: str) -> Request:
        async def send() -> None:
            calls.append(kind)
            await asyncio.sleep(0)
            error = errors[kind]
            if error:
                raise error

        return send

    requests = [request(kind) for kind in errors]
    outcomes, seconds = await overload.send_at_random(requests, rate=1000, seconds=0.1, seed=1)
    again, _ = await overload.send_at_random(requests, rate=1000, seconds=0.1, seed=1)
    assert Counter(outcome for outcome, _ in outcomes) == Counter(calls[: len(outcomes)])
    assert len(outcomes) == len(again) == len(calls) / 2 > 50
    assert seconds > 0


def test_documents_are_the_seeds() -> None:
    documents = draw_documents(3, pairs=5, seed=7)
    assert documents == draw_documents(3, pairs=5, seed=7)
    assert documents != draw_documents(3, pairs=5, seed=8)
    assert len({document.context for document in documents}) == 3
    for document in documents:
        assert len({question.query for question in document.questions}) == 5
