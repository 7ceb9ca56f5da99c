"""The benchmark's arithmetic: load, bars and the page, on figures that are known."""

import asyncio
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.measurement import save_result
from benchmarks.report.bars import judged
from benchmarks.report.serving import page, pictures, queries_to_pay_off, save
from benchmarks.serving.documents import documents
from benchmarks.serving.load import Sent, Timed, load, percentile, under_load
from benchmarks.serving.results import load_result
from gradmem_core.errors import InputError, OverloadedError
from tests.service.made_up_bench import overload, result

MEASURED = {
    "WRITE throughput, HTTP at concurrency 32 / ready batches of 32": (0.9, True),
    "WRITE throughput, HTTP, concurrency 32 / 1": (3.6, True),
    "WRITE throughput, in-process, concurrency 32 / 1": (1.9, False),
    "READ throughput, HTTP, concurrency 64 / 1": (5, False),
    "READ throughput, in-process, concurrency 64 / 1": (9, True),
    "READ p99 beside writers / (idle p99 + a gradient step), HTTP": (2, False),
    "READ p99 beside writers / (idle p99 + a gradient step), in-process": (1, True),
    "WRITE FLOP/s in batches of 32 / plain sgemm": (0.75, True),
    "READ time, 96-pair document / 4-pair document": (1.2, False),
    "Serving WRITE / unrolled WRITE, time, 16 pairs, batch 32": (0.375, True),
    "Serving WRITE / unrolled WRITE, time, 96 pairs, batch 8": (0.375, True),
    "Serving WRITE / unrolled WRITE, peak memory, 96 pairs, batch 8": (0.1, True),
    "Overload: requests unanswered": (0, True),
    "Overload: requests answered with 5xx or another failure": (0, True),
    "Overload: goodput / capacity": (0.95, True),
    "Memory after all requests / after 1,000": (1.04, True),
}


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([7.0], 50, 7.0),
        ([3.0, 1.0, 2.0], 50, 2.0),
        ([4.0, 1.0, 2.0, 3.0], 50, 2.0),
        ([float(n) for n in range(1, 101)], 99, 99.0),
        ([float(n) for n in range(1, 102)], 99, 100.0),
        ([1.0, 2.0], 100, 2.0),
    ],
)
def test_percentiles_are_of_the_nearest_rank(
    values: list[float], percent: float, expected: float
) -> None:
    assert percentile(values, percent) == expected


def test_requests_cut_by_the_window_count_by_their_share() -> None:
    sent = Sent([Timed(0, 1), Timed(0, 4), Timed(2, 3), Timed(3, 5), Timed(4, 6)])
    found = sent.within(2, 4, via="HTTP", concurrency=3)
    assert found.throughput == pytest.approx((0.5 + 1 + 0.5) / 2)
    assert (found.p50, found.p99, found.answered) == (2, 4, 5)


@pytest.mark.anyio
async def test_every_request_is_answered_or_counted_as_failed() -> None:
    calls: list[int] = []
    enough = asyncio.Event()

    async def request() -> None:
        number = len(calls)
        calls.append(number)
        if number == 30:
            enough.set()
        if number % 3 == 0:
            raise OverloadedError("full")
        await asyncio.sleep(0)

    async with under_load([request], concurrency=4) as sent:
        await enough.wait()
    assert len(calls) > 30
    assert len(sent.failures) == len([number for number in calls if number % 3 == 0])
    assert len(sent.answered) == len(calls) - len(sent.failures)


@pytest.mark.anyio
async def test_a_load_of_failures_is_their_error() -> None:
    async def request() -> None:
        raise OverloadedError("full")

    with pytest.raises(OverloadedError, match="full"):
        await load([request], via="HTTP", concurrency=2, seconds=0.01)


@pytest.mark.anyio
async def test_a_window_shorter_than_a_request_has_its_throughput() -> None:
    async def request() -> None:
        await asyncio.sleep(0.2)

    found = await load([request], via="HTTP", concurrency=2, seconds=0.01)
    assert 0 < found.throughput < 11
    assert found.answered == 2
    assert found.failures == {}


def test_documents_are_the_seeds() -> None:
    drawn = documents(3, pairs=5, seed=7)
    assert drawn == documents(3, pairs=5, seed=7)
    assert drawn != documents(3, pairs=5, seed=8)
    for one in drawn:
        assert len(one.text) == 5 * 7 + 1
        pairs = one.text[:-1].strip("!").split("!!")
        assert one.queries == [f"?!{pair.partition(':')[0]}:" for pair in pairs]
        assert len(set(one.queries)) == 5


def test_a_result_comes_back_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "bench.json"
    save_result(file, result())
    assert load_result(file) == result()
    file.write_text(file.read_text().replace('"answered": 1000', '"answered": "1000"', 1))
    with pytest.raises(InputError, match=r"write\.runs\.0\.0\.answered"):
        load_result(file)
    with pytest.raises(InputError, match="No such file"):
        load_result(tmp_path / "none.json")


def test_bars_are_judged_by_the_median_ratio_within_a_run() -> None:
    found = {one.bar.name: one for one in judged(result())}
    assert found.keys() == MEASURED.keys()
    for name, (measured, reached) in MEASURED.items():
        assert found[name].measured == pytest.approx(measured), name
        assert found[name].reached == reached, name


def test_one_failure_in_the_overload_is_too_many() -> None:
    changed = result().model_copy(update={"overload": overload(failed=1, goodput=17.9)})
    missed = {one.bar.name for one in judged(changed) if not one.reached}
    assert "Overload: requests answered with 5xx or another failure" in missed
    assert "Overload: goodput / capacity" in missed


def test_what_was_not_measured_is_not_judged() -> None:
    sections = dict.fromkeys(("write", "read", "context", "device", "overload", "growth"))
    empty = result().model_copy(update=sections)
    assert list(judged(empty)) == []
    assert pictures([empty]) == {}
    assert page([empty]).count("\n## ") == 1


@pytest.mark.parametrize(
    ("spent", "saved", "expected"),
    [(1.0, 0.5, "2"), (1.0, 0.0, "never"), (1.0, -1.0, "never"), (-1.0, 0.5, "1")],
)
def test_queries_to_pay_off(spent: float, saved: float, expected: str) -> None:
    assert queries_to_pay_off(spent, saved) == expected


def test_the_page_has_every_section_and_its_figures() -> None:
    text = page([result()], bounds="The clerk is slow.\n")
    lines = text.splitlines()
    missed = (
        "| READ time, 96-pair document / 4-pair document | 1.2 | at most 1.1 | **not reached** |"
    )
    assert missed in lines
    assert "| HTTP | 128 | 40.0 | 100 | 200 | 6 Overloaded |" in lines
    times = "| 4 (29) | 1 | 500 | 10.00 | 100 | 30.00 | 60.00 |"
    assert f"{times} 4,096 | 118,784 | 29 | 20 | 10 |" in lines
    assert "| 8 | 8.0 | 8.0 |" in lines
    assert "| 4,800 | 1,200 | 3,600 | 0 | 0 | 19.0 | 1,500 | 2,500 |" in lines
    assert "| 2,000 | 104.0 |" in lines
    assert "- Left out: something: for a reason" in lines
    assert "The clerk is slow." in lines


def test_pictures_are_xml_and_linked(tmp_path: Path) -> None:
    output = tmp_path / "PERFORMANCE.md"
    save(output, [result()])
    found = sorted(path.name for path in (tmp_path / "performance").iterdir())
    assert found == ["profile.svg", "read.svg", "write.svg"]
    for name in found:
        assert f"](performance/{name})" in output.read_text()
        root = ElementTree.parse(tmp_path / "performance" / name).getroot()
        assert root.tag.endswith("svg")
