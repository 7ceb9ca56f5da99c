"""The figures that issue 4 asks for, each with its bar, judged from a result."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from benchmarks.measurement import median_ratio
from benchmarks.serving import device
from benchmarks.serving.results import BenchResult, Footprint, Load, Mixed, OverloadSection, Via

Figure = Callable[[BenchResult], float | None]
"A figure of a result; None where its section was not measured."


@dataclass(frozen=True)
class Bar:
    """What is to be reached."""

    name: str
    figure: Figure
    side: Literal["at least", "at most"]
    limit: float


@dataclass(frozen=True)
class Judged:
    """A bar and what was measured."""

    bar: Bar
    measured: float

    @property
    def reached(self) -> bool:
        """Whether the bar is reached."""
        if self.bar.side == "at least":
            return self.measured >= self.bar.limit
        return self.measured <= self.bar.limit


def judged(result: BenchResult) -> Iterator[Judged]:
    """Every bar whose section was measured."""
    for bar in BARS:
        measured = bar.figure(result)
        if measured is not None:
            yield Judged(bar, measured)


def load_ratio(
    runs: tuple[tuple[Load, ...], ...], over: tuple[Via, int], under: tuple[Via, int]
) -> float:
    """The median over runs of the ratio of two throughputs in a run.

    Args:
        runs: Of each run its loads.
        over: Way and concurrency of the dividend.
        under: Those of the divisor.
    """
    by_key = [{(one.via, one.concurrency): one.throughput for one in run} for run in runs]
    return statistics.median(run[over] / run[under] for run in by_key)


def _writes(over: tuple[Via, int], under: tuple[Via, int]) -> Figure:
    return lambda result: load_ratio(result.write.runs, over, under) if result.write else None


def _reads(over: tuple[Via, int], under: tuple[Via, int]) -> Figure:
    return lambda result: load_ratio(result.read.runs, over, under) if result.read else None


def _held_up(via: Via) -> Figure:
    def figure(result: BenchResult) -> float | None:
        if result.read is None:
            return None
        return statistics.median(
            held_up(one) for run in result.read.mixed for one in run if one.via == via
        )

    return figure


def held_up(mixed: Mixed) -> float:
    """READ's p99 beside writers in multiples of its idle p99 and one gradient step."""
    return mixed.saturated.p99 / (mixed.idle.p99 + mixed.step)


def _efficiency(result: BenchResult) -> float | None:
    if result.device is None:
        return None
    return statistics.median(one.ratio for one in result.device.efficiency)


def _reading_long(result: BenchResult) -> float | None:
    if result.device is None:
        return None
    return statistics.median(one.long / one.short for one in result.device.read_times)


def _unrolled(pairs: int, *, memory: bool = False) -> Figure:
    def figure(result: BenchResult) -> float | None:
        if result.device is None:
            return None
        (row,) = [one for one in result.device.unrolled if one.pairs == pairs]
        if memory:
            return row.serving_bytes / row.unrolled_bytes
        return median_ratio(row.serving, row.unrolled)

    return figure


def _overload(figure: Callable[[OverloadSection], float]) -> Figure:
    return lambda result: figure(result.overload) if result.overload else None


def grown(result: BenchResult) -> float | None:
    """Memory after all requests in multiples of that after `FEW` of them."""
    if result.growth is None:
        return None
    return result.growth.footprints[-1].bytes / first_footprint(result.growth.footprints).bytes


def first_footprint(footprints: tuple[Footprint, ...]) -> Footprint:
    """The first after `FEW` requests; the last where there were fewer."""
    return next((one for one in footprints if one.requests >= FEW), footprints[-1])


FEW = 1000
"Requests after which the service's memory counts as warmed up."
BARS: tuple[Bar, ...] = (
    Bar(
        "WRITE throughput, HTTP at concurrency 32 / ready batches of 32",
        _writes(("HTTP", 32), ("ready batches", 32)),
        "at least",
        0.85,
    ),
    Bar(
        "WRITE throughput, HTTP, concurrency 32 / 1",
        _writes(("HTTP", 32), ("HTTP", 1)),
        "at least",
        2,
    ),
    Bar(
        "WRITE throughput, in-process, concurrency 32 / 1",
        _writes(("in-process", 32), ("in-process", 1)),
        "at least",
        2,
    ),
    Bar(
        "READ throughput, HTTP, concurrency 64 / 1",
        _reads(("HTTP", 64), ("HTTP", 1)),
        "at least",
        8,
    ),
    Bar(
        "READ throughput, in-process, concurrency 64 / 1",
        _reads(("in-process", 64), ("in-process", 1)),
        "at least",
        8,
    ),
    Bar(
        "READ p99 beside writers / (idle p99 + a gradient step), HTTP",
        _held_up("HTTP"),
        "at most",
        1.5,
    ),
    Bar(
        "READ p99 beside writers / (idle p99 + a gradient step), in-process",
        _held_up("in-process"),
        "at most",
        1.5,
    ),
    Bar("WRITE FLOP/s in batches of 32 / plain sgemm", _efficiency, "at least", 0.6),
    Bar("READ time, 96-pair document / 4-pair document", _reading_long, "at most", 1.1),
    Bar(
        "Serving WRITE / unrolled WRITE, time, 16 pairs, batch 32",
        _unrolled(device.PAIRS),
        "at most",
        0.8,
    ),
    Bar(
        "Serving WRITE / unrolled WRITE, time, 96 pairs, batch 8",
        _unrolled(device.LONG_PAIRS),
        "at most",
        0.5,
    ),
    Bar(
        "Serving WRITE / unrolled WRITE, peak memory, 96 pairs, batch 8",
        _unrolled(device.LONG_PAIRS, memory=True),
        "at most",
        0.15,
    ),
    Bar("Overload: requests unanswered", _overload(lambda one: one.unanswered), "at most", 0),
    Bar(
        "Overload: requests answered with 5xx or another failure",
        _overload(lambda one: one.failed),
        "at most",
        0,
    ),
    Bar(
        "Overload: goodput / capacity",
        _overload(lambda one: one.goodput / one.capacity),
        "at least",
        0.9,
    ),
    Bar("Memory after all requests / after 1,000", grown, "at most", 1.05),
)
