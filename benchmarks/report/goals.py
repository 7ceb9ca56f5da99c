"""Figures that are to be reached, beside those that were measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from pandas import DataFrame, isna

from benchmarks.report import serving
from benchmarks.report.frames import frame
from benchmarks.report.markdown import percent, plain, table
from benchmarks.report.published import LANGUAGE
from benchmarks.results import ResultFile
from benchmarks.rows import (
    Efficiency,
    Footprint,
    Load,
    Overload,
    Questions,
    ReadByLength,
    Unrolled,
)

MOST_STEPS = 8
"Write steps (K) that count at most."
NONE = float("nan")
"A figure that was not measured."
Files = Sequence[ResultFile]


@dataclass(frozen=True)
class Goal:
    """A figure to reach."""

    name: str
    figure: Callable[[Files], float]
    "Computes it; NaN where it was not measured."
    limit: float
    at_most: bool = False
    "The figure is to stay below the limit, not above."
    published: float = NONE
    "The best that was published."

    def reached(self, figure: float) -> bool:
        """Say whether a figure is within the limit; one that was not measured is not."""
        return figure <= self.limit if self.at_most else figure >= self.limit


def prose_goals(files: Files, checkpoint: str) -> str:
    """Return what a checkpoint for texts has reached; empty where nothing was measured."""
    rows = [file for file in files if (s := file.result.subject) and s.checkpoint == checkpoint]
    return _standings(PROSE, rows, percent, "best published")


def serving_goals(files: Files) -> str:
    """Return what the service has reached; empty where nothing was measured."""
    return _standings(SERVING, files, plain, "")


def _standings(
    goals: Sequence[Goal], files: Files, form: Callable[[float], str], known: str
) -> str:
    figures = [goal.figure(files) for goal in goals]
    if all(isna(figure) for figure in figures):
        return ""
    lines = [
        {
            "figure": goal.name,
            "measured": "not measured" if isna(figure) else form(figure),
            "goal": f"{'≤' if goal.at_most else '≥'} {form(goal.limit)}",
            "reached": "yes" if goal.reached(figure) else "no",
            known: None if isna(goal.published) else form(goal.published),
        }
        for goal, figure in zip(goals, figures, strict=True)
    ]
    return table(DataFrame(lines))


def _memories(files: Files, section: str) -> DataFrame:
    """Return a section's rows that were answered from memories of few write steps."""
    rows = frame(Questions, files)
    return rows[
        (rows.section == section) & (rows.condition == "memory") & (rows.write_steps <= MOST_STEPS)
    ]


def _best(files: Files, section: str, field: str) -> float:
    """Return the best value over the numbers of write steps."""
    return float(_memories(files, section)[field].max())


def _served(files: Files, section: str, field: str) -> float:
    """Return the value of memories as the service stores them."""
    rows = _memories(files, section)
    return float(rows[rows.blob == "int8"][field].max())


def _of_the_text(files: Files, section: str) -> float:
    """Divide the memory's best exact match by the same model's over the whole text."""
    rows = frame(Questions, files)
    whole = rows[(rows.section == section) & (rows.condition == "whole text")].exact_match
    return _best(files, section, "exact_match") / float(whole.max())


def _mean(files: Files, section: str, condition: str) -> float:
    """Average the exact match under a condition: the last part of its name, behind a comma."""
    rows = frame(Questions, files)
    rows = rows[rows.section == section]
    last = rows.condition.str.split(", ").str[-1]
    return float(rows[last == condition].exact_match.mean())


def _speedup(files: Files, operation: str, over: tuple[str, int], under: tuple[str, int]) -> float:
    """Return the median over the runs of the ratio of two throughputs in a run.

    Args:
        files: Results.
        operation: `write` or `read`.
        over: Way and concurrency of the dividend.
        under: Those of the divisor.
    """
    rows = frame(Load, files)
    rows = rows[rows.operation == operation]
    runs = rows.pivot_table(index="run", columns=["via", "concurrency"], values="throughput")
    return float((runs[over] / runs[under]).median()) if {over, under} <= {*runs} else NONE


def _delay(files: Files, via: str) -> float:
    rows = frame(Load, files)
    rows = rows[rows.gradient_step.notna() & (rows.via == via)]
    return NONE if rows.empty else float(serving.delays(rows).median())


def _efficiency(files: Files) -> float:
    rows = frame(Efficiency, files)
    return float((rows.write_flop / rows.write / (rows.gemm_flop / rows.gemm)).median())


def _reading_long(files: Files) -> float:
    rows = frame(ReadByLength, files)
    return float((rows.long / rows.short).median())


def _unrolled(files: Files, pairs: int, suffix: str = "") -> float:
    rows = frame(Unrolled, files)
    rows = rows[rows.pairs == pairs]
    return float((rows[f"serving{suffix}"] / rows[f"unrolled{suffix}"]).median())


def _overload(files: Files, field: str) -> float:
    return float(frame(Overload, files)[field].max())


def _goodput(files: Files) -> float:
    rows = frame(Overload, files)
    return float((rows.goodput / serving.capacity(rows)).median())


def _growth(files: Files) -> float:
    rows = serving.warm(frame(Footprint, files))
    return NONE if rows.empty else float(rows.bytes.iloc[-1] / rows.bytes.iloc[0])


F = partial
KNOWN = LANGUAGE["short-squad"]
PROSE = (
    Goal(
        "Short SQuAD, exact match", F(_best, section="sentences", field="exact_match"), limit=0.56
    ),
    Goal(
        "Short SQuAD, forced",
        F(_best, section="sentences", field="forced"),
        limit=0.55,
        published=KNOWN["gradmem"] / 100,
    ),
    Goal(
        "Short SQuAD, share of the same model's whole-text figure",
        F(_of_the_text, section="sentences"),
        limit=0.93,
        published=KNOWN["gradmem"] / KNOWN["full-context"],
    ),
    Goal(
        "windows of 96 tokens, exact match",
        F(_best, section="windows-96", field="exact_match"),
        limit=0.5,
    ),
    Goal(
        "whole paragraphs through pages, exact match",
        F(_served, section="paragraphs-1", field="exact_match"),
        limit=0.45,
    ),
    Goal("lists, keys asked plainly", F(_mean, section="lists", condition="key alone"), limit=0.97),
    Goal("lists, keys asked in words", F(_mean, section="lists", condition="in words"), limit=0.85),
    Goal(
        "tables, CSV, JSON, YAML, transcripts, code (100 questions)",
        F(_mean, section="formats", condition="all"),
        limit=0.85,
    ),
    Goal(
        "questions that the text does not answer, rejection recall",
        F(_served, section="paragraphs-1", field="rejection_recall"),
        limit=0.95,
    ),
    Goal(
        "questions that the text answers, false rejection rate",
        F(_served, section="paragraphs-1", field="false_rejection_rate"),
        limit=0.04,
        at_most=True,
    ),
)
"Shares, of one checkpoint with 32 vectors a page and K up to MOST_STEPS."
SERVING = (
    Goal(
        "WRITE throughput, HTTP at concurrency 32 / ready batches of 32",
        F(_speedup, operation="write", over=("HTTP", 32), under=("ready batches", 32)),
        limit=0.85,
    ),
    *(
        Goal(
            f"{operation.upper()} throughput, {via}, concurrency {most} / 1",
            F(_speedup, operation=operation, over=(via, most), under=(via, 1)),
            limit=limit,
        )
        for operation, most, limit in (("write", 32, 2), ("read", 64, 8))
        for via in ("HTTP", "in-process")
    ),
    *(
        Goal(
            f"READ p99 beside writers / (p99 alone + a gradient step), {via}",
            F(_delay, via=via),
            limit=1.5,
            at_most=True,
        )
        for via in ("HTTP", "in-process")
    ),
    Goal("WRITE FLOP/s in batches of 32 / plain sgemm", _efficiency, limit=0.6),
    Goal("READ time, 96-pair document / 4-pair document", _reading_long, limit=1.1, at_most=True),
    Goal(
        "Serving WRITE / unrolled WRITE, time, 16 pairs, batch 32",
        F(_unrolled, pairs=16),
        limit=0.8,
        at_most=True,
    ),
    Goal(
        "Serving WRITE / unrolled WRITE, time, 96 pairs, batch 8",
        F(_unrolled, pairs=96),
        limit=0.5,
        at_most=True,
    ),
    Goal(
        "Serving WRITE / unrolled WRITE, peak memory, 96 pairs, batch 8",
        F(_unrolled, pairs=96, suffix="_bytes"),
        limit=0.15,
        at_most=True,
    ),
    Goal("Overload: requests unanswered", F(_overload, field="unanswered"), limit=0, at_most=True),
    Goal(
        "Overload: requests answered with 5xx or another failure",
        F(_overload, field="failed"),
        limit=0,
        at_most=True,
    ),
    Goal("Overload: goodput / capacity", _goodput, limit=0.9),
    Goal("Memory after all requests / after 1,000", _growth, limit=1.05, at_most=True),
)
"Ratios of one service, and counts of its requests."
