"""The work of several pages: side by side within limits, in order, and ended by the first error."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gradmem_core.errors import DeadlineError, OverloadedError
from service.engine import Admission
from service.pages import SHARE, for_each_page

pytestmark = pytest.mark.anyio

Work = Callable[[float], Awaitable[int]]
PLENTY = Admission(tokens=1000, seconds=30)


class Workers:
    """Work whose pages end when they are told to."""

    def __init__(self, pages: int) -> None:
        self.begun: list[int] = []
        self.cancelled: list[int] = []
        self.left: list[float] = []
        self.results: list[asyncio.Future[int]] = [
            asyncio.get_running_loop().create_future() for _ in range(pages)
        ]

    def work(self) -> list[Work]:
        return [self._work(page) for page in range(len(self.results))]

    def _work(self, page: int) -> Work:
        async def work(seconds: float) -> int:
            self.begun.append(page)
            self.left.append(seconds)
            try:
                return await self.results[page]
            except asyncio.CancelledError:
                self.cancelled.append(page)
                raise

        return work


async def turns() -> None:
    """Let everything that can go on go on."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("pages", [1, 3])
async def test_results_are_in_the_order_of_the_pages(pages: int) -> None:
    workers = Workers(pages)
    work = for_each_page(workers.work(), tokens=10, admission=PLENTY, seconds=None)
    task = asyncio.create_task(work)
    await turns()
    for page in reversed(range(pages)):
        workers.results[page].set_result(10 * page)
        await turns()
    assert await task == [10 * page for page in range(pages)]
    assert all(29 < left <= 30 for left in workers.left)


@pytest.mark.parametrize(("tokens", "at_once"), [(100, 2), (999, 1), (5000, 1)])
async def test_a_request_takes_its_share_of_the_engine_only(tokens: int, at_once: int) -> None:
    assert SHARE == 4
    workers = Workers(4)
    task = asyncio.create_task(
        for_each_page(workers.work(), tokens=tokens, admission=PLENTY, seconds=None)
    )
    await turns()
    assert workers.begun == list(range(at_once))
    for page, result in enumerate(workers.results):
        result.set_result(page)
        await turns()
        assert len(workers.begun) == min(4, page + 1 + at_once)
    assert await task == [0, 1, 2, 3]


async def test_the_first_error_ends_the_other_pages() -> None:
    workers = Workers(6)
    task = asyncio.create_task(
        for_each_page(workers.work(), tokens=100, admission=PLENTY, seconds=None)
    )
    await turns()
    error = OverloadedError("no room")
    workers.results[1].set_exception(error)
    with pytest.raises(OverloadedError) as caught:
        await task
    assert caught.value is error
    # The next page may have begun in the failed one's place.
    assert set(workers.begun) <= {0, 1, 2}
    assert set(workers.cancelled) == set(workers.begun) - {1}


async def test_whoever_leaves_ends_all_pages() -> None:
    workers = Workers(2)
    task = asyncio.create_task(
        for_each_page(workers.work(), tokens=1, admission=PLENTY, seconds=None)
    )
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(workers.cancelled) == [0, 1]


@pytest.mark.parametrize("seconds", [2.0, None, 99.0])
async def test_pages_share_the_time_of_their_request(seconds: float | None) -> None:
    workers = Workers(2)
    admission = Admission(tokens=1, seconds=3)
    task = asyncio.create_task(
        for_each_page(workers.work(), tokens=1, admission=admission, seconds=seconds)
    )
    await turns()
    workers.results[0].set_result(0)
    workers.results[1].set_result(1)
    await task
    first, second = workers.left
    assert min(seconds or 3, 3) >= first > second > 0


async def test_a_page_whose_turn_comes_too_late_does_not_begin() -> None:
    workers = Workers(2)
    workers.results[1].set_result(1)
    clock = asyncio.get_running_loop()
    work = workers.work()

    async def long(seconds: float) -> int:
        end = clock.time() + seconds
        while clock.time() <= end:  # as a device that is busy
            pass
        return 0

    with pytest.raises(DeadlineError, match=r"0\.02 s"):
        await for_each_page(
            [long, work[1]], tokens=1, admission=Admission(tokens=1, seconds=30), seconds=0.02
        )
    assert workers.begun == []
