"""Figures that are to be reached, beside those that were measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter

from pandas import DataFrame, Series, isna

from benchmarks import rows as kinds
from benchmarks.report import serving
from benchmarks.report.frames import Files, frame, of_checkpoint
from benchmarks.report.markdown import percent, plain, table
from benchmarks.report.published import LANGUAGE
from benchmarks.report.texts import SERVED_BLOB, SERVED_STEPS
from benchmarks.results import Row

MOST_STEPS = 8
"Write steps (K) that count at most."
NONE = float("nan")
"A figure that was not measured."


@dataclass(frozen=True)
class Goal:
    """A figure to reach."""

    name: str
    limit: float
    figure: Callable[[Files], float]
    "Computes it; NaN where it was not measured."
    at_most: bool
    "The figure is to stay below the limit, not above."
    published: float = NONE
    "The best that was published."

    def is_reached(self, figure: float) -> bool:
        """Return whether a figure is within the limit; one that was not measured is not."""
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
    """Return the value of memories that are written and stored as the service does."""
    rows = _questions(section, files)
    rows = rows[(rows.blob == SERVED_BLOB) & (rows.write_steps == SERVED_STEPS)]
    return float(rows[field].head(1).astype(float).max())  # NaN of none


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


def _total(kind: type[Row], values: Callable[[DataFrame], "Series[float]"], files: Files) -> float:
    return float(values(frame(kind, files)).sum(min_count=1))


def _useful(rows: DataFrame) -> "Series[float]":
    return rows.write_flop / rows.write / (rows.gemm_flop / rows.gemm)


def _answered(rows: DataFrame) -> "Series[float]":
    return rows.goodput / serving.capacity(rows)


def _growth(files: Files) -> float:
    rows = serving.warm(frame(kinds.Footprint, files))
    return NONE if rows.empty else float(rows.bytes.iloc[-1] / rows.bytes.iloc[0])


F, least, most = partial, partial(Goal, at_most=False), partial(Goal, at_most=True)
SQUAD, WHOLE = LANGUAGE["short-squad"]["gradmem"], LANGUAGE["short-squad"]["full-context"]
PAGED = "paragraphs-1"
PROSE = (
    least("Short SQuAD, exact match", 0.56, F(_best, "sentences", "exact_match")),
    least("Short SQuAD, forced", 0.55, F(_best, "sentences", "forced"), published=SQUAD / 100),
    least(
        "Short SQuAD, memory / text", 0.93, F(_of_the_text, "sentences"), published=SQUAD / WHOLE
    ),
    least("windows of 96 tokens, exact match", 0.5, F(_best, "windows-96", "exact_match")),
    least("paragraphs through pages, exact match", 0.45, F(_served, PAGED, "exact_match")),
    least("lists, keys asked plainly", 0.97, F(_mean, "lists", "key alone")),
    least("lists, keys asked in words", 0.85, F(_mean, "lists", "in words")),
    least("tables, CSV, JSON, YAML, transcripts, code", 0.85, F(_mean, "formats", "all")),
    least("paragraphs, rejection recall", 0.95, F(_served, PAGED, "rejection_recall")),
    most("paragraphs, false rejection rate", 0.04, F(_served, PAGED, "false_rejection_rate")),
)
"Shares, of one checkpoint with 32 vectors a page and K up to MOST_STEPS."
READY = ("ready batches", 32)
SPEEDUPS = [(*of, via) for of in (("write", 32, 2), ("read", 64, 8)) for via in serving.WAYS]
SERVING = (
    least(
        "WRITE/s, HTTP, 32 at once / ready batches", 0.85, F(_speedup, "write", ("HTTP", 32), READY)
    ),
    *(
        least(f"{of.upper()}/s, {via}, {n} at once / 1", limit, F(_speedup, of, (via, n), (via, 1)))
        for of, n, limit, via in SPEEDUPS
    ),
    *(
        most(f"READ p99 beside writers / (alone + a step), {via}", 1.5, F(_delay, via))
        for via in serving.WAYS
    ),
    least("WRITE FLOP/s / plain sgemm, batches of 32", 0.6, F(_median, kinds.Efficiency, _useful)),
    most(
        "READ time, 96 / 4 pairs", 1.1, F(_median, kinds.ReadByLength, lambda r: r.long / r.short)
    ),
    most("serving / unrolled WRITE, time, 16 pairs", 0.8, F(_unrolled, 16, "")),
    most("serving / unrolled WRITE, time, 96 pairs", 0.5, F(_unrolled, 96, "")),
    most("serving / unrolled WRITE, peak memory, 96 pairs", 0.15, F(_unrolled, 96, "_bytes")),
    most("overload, unanswered", 0, F(_total, kinds.Overload, itemgetter("unanswered"))),
    most("overload, failed (5xx or another)", 0, F(_total, kinds.Overload, itemgetter("failed"))),
    least(
        "overload from another core, goodput / capacity", 0.9, F(_median, kinds.Overload, _answered)
    ),
    most("memory after all requests / after 1,000", 1.05, _growth),
)
"Ratios of one service, and counts of its requests."
