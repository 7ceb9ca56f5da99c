"""Figures that are to be reached, beside those that were measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter

from pandas import DataFrame, Series, isna

from benchmarks import rows as kinds
from benchmarks.report import serving
from benchmarks.report.frames import frame, of_checkpoint
from benchmarks.report.markdown import percent, plain, table
from benchmarks.report.published import LANGUAGE
from benchmarks.results import ResultFile, Row

MOST_STEPS = 8
"Write steps (K) that count at most."
NONE = float("nan")
"A figure that was not measured."
Files = Sequence[ResultFile]


@dataclass(frozen=True)
class Goal:
    """A figure to reach."""

    name: str
    limit: float
    figure: Callable[[Files], float]
    "Computes it; NaN where it was not measured."
    at_most: bool = False
    "The figure is to stay below the limit, not above."
    published: float = NONE
    "The best that was published."

    def is_reached(self, figure: float) -> bool:
        """Say whether a figure is within the limit; one that was not measured is not."""
        return figure <= self.limit if self.at_most else figure >= self.limit


def prose_goals(files: Files, checkpoint: str) -> str:
    """Return what a checkpoint for texts has reached; empty where nothing was measured."""
    return _standings(PROSE, of_checkpoint(files, checkpoint), percent)


def serving_goals(files: Files) -> str:
    """Return what the service has reached; empty where nothing was measured."""
    return _standings(SERVING, files, plain)


def _standings(goals: Sequence[Goal], files: Files, form: Callable[[float], str]) -> str:
    figures = [goal.figure(files) for goal in goals]
    lines = [
        {
            "figure": goal.name,
            "measured": "not measured" if isna(figure) else form(figure),
            "goal": f"{'≤' if goal.at_most else '≥'} {form(goal.limit)}",
            "reached": "yes" if goal.is_reached(figure) else "no",
            "best published": None if isna(goal.published) else form(goal.published),
        }
        for goal, figure in zip(goals, figures, strict=True)
    ]
    return "" if all(map(isna, figures)) else table(DataFrame(lines))


def _questions(section: str, files: Files, condition: str = "memory") -> DataFrame:
    """Return a section's rows of one condition: the last part of its name, behind a comma."""
    rows = frame(kinds.Questions, files)
    rows = rows[(rows.section == section) & ~(rows.write_steps > MOST_STEPS)]
    return rows[rows.condition.str.split(", ").str[-1] == condition]


def _best(section: str, field: str, files: Files) -> float:
    """Return the memories' best value over the numbers of write steps."""
    return float(_questions(section, files)[field].max())


def _served(section: str, field: str, files: Files) -> float:
    """Return the value of memories as the service stores them."""
    rows = _questions(section, files)
    return float(rows[rows.blob == "int8"][field].max())


def _of_the_text(section: str, files: Files) -> float:
    """Divide the memory's best exact match by the same model's over the whole text."""
    whole = _questions(section, files, "whole text").exact_match.max()
    return _best(section, "exact_match", files) / float(whole)


def _mean(section: str, condition: str, files: Files) -> float:
    return float(_questions(section, files, condition).exact_match.mean())


def _speedup(operation: str, over: tuple[str, int], under: tuple[str, int], files: Files) -> float:
    """Return the median over the runs of the ratio of two throughputs in a run.

    Args:
        operation: `write` or `read`.
        over: Way and concurrency of the dividend.
        under: Those of the divisor.
        files: Results.
    """
    rows = frame(kinds.Load, files)
    rows = rows[rows.operation == operation]
    runs = rows.pivot_table(index="run", columns=["via", "concurrency"], values="throughput")
    return float((runs[over] / runs[under]).median()) if {over, under} <= {*runs} else NONE


def _delay(via: str, files: Files) -> float:
    rows = serving.mixed_loads(files)
    rows = rows[rows.via == via]
    return NONE if rows.empty else float(serving.delays(rows).median())


def _unrolled(pairs: int, suffix: str, files: Files) -> float:
    rows = frame(kinds.Unrolled, files)
    rows = rows[rows.pairs == pairs]
    return float((rows[f"serving{suffix}"] / rows[f"unrolled{suffix}"]).median())


def _median(kind: type[Row], values: Callable[[DataFrame], "Series[float]"], files: Files) -> float:
    return float(values(frame(kind, files)).median())


def _growth(files: Files) -> float:
    rows = serving.warm(frame(kinds.Footprint, files))
    return NONE if rows.empty else float(rows.bytes.iloc[-1] / rows.bytes.iloc[0])


F = partial
SQUAD, WHOLE = LANGUAGE["short-squad"]["gradmem"], LANGUAGE["short-squad"]["full-context"]
PAGED = "paragraphs-1"
WAYS = ("HTTP", "in-process")
PROSE = (
    Goal("Short SQuAD, exact match", 0.56, F(_best, "sentences", "exact_match")),
    Goal("Short SQuAD, forced", 0.55, F(_best, "sentences", "forced"), published=SQUAD / 100),
    Goal(
        "Short SQuAD, share of the same model's whole-text figure",
        0.93,
        F(_of_the_text, "sentences"),
        published=SQUAD / WHOLE,
    ),
    Goal("windows of 96 tokens, exact match", 0.5, F(_best, "windows-96", "exact_match")),
    Goal("paragraphs through pages, exact match", 0.45, F(_served, PAGED, "exact_match")),
    Goal("lists, keys asked plainly", 0.97, F(_mean, "lists", "key alone")),
    Goal("lists, keys asked in words", 0.85, F(_mean, "lists", "in words")),
    Goal("tables, CSV, JSON, YAML, transcripts, code", 0.85, F(_mean, "formats", "all")),
    Goal("paragraphs, rejection recall", 0.95, F(_served, PAGED, "rejection_recall")),
    Goal(
        "paragraphs, false rejection rate",
        0.04,
        F(_served, PAGED, "false_rejection_rate"),
        at_most=True,
    ),
)
"Shares, of one checkpoint with 32 vectors a page and K up to MOST_STEPS."
SERVING = (
    Goal(
        "WRITE throughput, HTTP at concurrency 32 / ready batches of 32",
        0.85,
        F(_speedup, "write", ("HTTP", 32), ("ready batches", 32)),
    ),
    *(
        Goal(
            f"{operation.upper()} throughput, {via}, concurrency {most} / 1",
            limit,
            F(_speedup, operation, (via, most), (via, 1)),
        )
        for operation, most, limit in (("write", 32, 2), ("read", 64, 8))
        for via in WAYS
    ),
    *(
        Goal(
            f"READ p99 beside writers / (alone + a step), {via}", 1.5, F(_delay, via), at_most=True
        )
        for via in WAYS
    ),
    Goal(
        "WRITE FLOP/s in batches of 32 / plain sgemm",
        0.6,
        F(_median, kinds.Efficiency, lambda r: r.write_flop / r.write / (r.gemm_flop / r.gemm)),
    ),
    Goal(
        "READ time, 96-pair document / 4-pair document",
        1.1,
        F(_median, kinds.ReadByLength, lambda r: r.long / r.short),
        at_most=True,
    ),
    *(
        Goal(
            f"serving WRITE / unrolled WRITE, {what}, {pairs} pairs",
            limit,
            F(_unrolled, pairs, suffix),
            at_most=True,
        )
        for what, suffix, pairs, limit in (
            ("time", "", 16, 0.8),
            ("time", "", 96, 0.5),
            ("peak memory", "_bytes", 96, 0.15),
        )
    ),
    *(
        Goal(
            f"overload: requests {end}",
            0,
            F(_median, kinds.Overload, itemgetter(end)),
            at_most=True,
        )
        for end in ("unanswered", "failed")
    ),
    Goal(
        "overload: goodput / capacity",
        0.9,
        F(_median, kinds.Overload, lambda r: r.goodput / serving.capacity(r)),
    ),
    Goal("memory after all requests / after 1,000", 1.05, _growth, at_most=True),
)
"Ratios of one service, and counts of its requests."
