"""docs/PERFORMANCE.md and its pictures, made of results of `gradmem bench` and nothing else."""

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from benchmarks.report.bars import first_footprint, held_up, judged
from benchmarks.report.svg import bar_chart
from benchmarks.serving.results import (
    BenchResult,
    ContextRow,
    DeviceSection,
    GrowthSection,
    Load,
    OverloadSection,
    ReadSection,
    WriteSection,
)
from gradmem_core.errors import InputError

PICTURES = "performance"
"Folder of the pictures, beside the page."
HEAD = """# Performance

Made by `scripts/performance.py` from results of `gradmem bench`: no figure here was typed. Times
are medians over the runs, ratios are medians over the runs of the ratio within a run.
"""
Row = Sequence[str]
Item = TypeVar("Item")
Key = TypeVar("Key")


def page(results: Sequence[BenchResult], *, bounds: str = "") -> str:
    """The page, Markdown.

    Args:
        results: Where every figure comes from, each with sections of its own.
        bounds: What bounds the figures, in words, for those who have looked into it.
    """
    parts = [HEAD, "\n".join(map(_about, results)), _bars(results)]
    if bounds:
        parts.append(_section("What bounds them", bounds.strip()))
    for result in results:
        if result.write:
            parts.append(_write(result.write))
        if result.read:
            parts.append(_read(result.read))
        if result.context:
            parts.append(_context(result.context))
        if result.device:
            parts.append(_device(result.device))
        if result.overload:
            parts.append(_overload(result.overload))
        if result.growth:
            parts.append(_growth(result.growth))
    return "\n".join(parts)


def pictures(results: Sequence[BenchResult]) -> dict[str, str]:
    """SVG by file name, of the sections that were measured."""
    found: dict[str, str] = {}
    for result in results:
        if result.write:
            found["write.svg"] = _throughputs("WRITE: requests a second", result.write.runs)
        if result.read:
            found["read.svg"] = _throughputs("READ: requests a second", result.read.runs)
        if result.device:
            operations = [
                (one.name, one.seconds, f"{_ms(one.seconds)} ms") for one in result.device.profile
            ]
            found["profile.svg"] = bar_chart("One WRITE batch: time by operation", operations)
    return found


def save(output: Path, results: Sequence[BenchResult], *, bounds: str = "") -> None:
    """Write the page to `output` and the pictures into `PICTURES` beside it.

    Args:
        output: The page's file.
        results: Where every figure comes from.
        bounds: See `page`.

    Raises:
        InputError: Something cannot be written.
    """
    folder = output.parent / PICTURES
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures(results).items():
            (folder / name).write_text(picture, encoding="utf-8")
        output.write_text(page(results, bounds=bounds), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{output} cannot be written: {error.strerror}") from error


def _about(result: BenchResult) -> str:
    machine = result.machine
    lines = [
        f"- Command: `{result.command}`",
        f"- Machine: {machine.cpu}, {machine.cores} cores, {machine.threads} threads, torch"
        f" {machine.torch}",
        f"- Checkpoint: {result.checkpoint} (`{result.fingerprint[:12]}`), commit {result.commit}",
        f"- {result.date:%Y-%m-%d}, {result.seconds / 60:.0f} minutes, seed {result.seed}",
        *(f"- Left out: {note}" for note in result.notes),
    ]
    return "\n".join(lines) + "\n"


def _bars(results: Sequence[BenchResult]) -> str:
    rows = [
        (
            one.bar.name,
            f"{one.measured:.3g}",
            f"{one.bar.side} {one.bar.limit:g}",
            "reached" if one.reached else "**not reached**",
        )
        for result in results
        for one in judged(result)
    ]
    return _section("Bars", "", table(("figure", "measured", "bar", ""), rows))


def _write(section: WriteSection) -> str:
    about = (
        f"Documents of {section.pairs} pairs, K = {section.steps}. Ready batches are tensors handed"
        " to `gradmem_core.writing`, without engine and service; their latency is that of a batch."
    )
    return _section("WRITE", about, _loads(section.runs), "write.svg")


def _read(section: ReadSection) -> str:
    about = f"One query a request, from memories of {section.pairs}-pair documents."
    mixed = [one for run in section.mixed for one in run]
    rows = [
        (
            via,
            _ms(_median(of_one, lambda one: one.idle.p50)),
            _ms(_median(of_one, lambda one: one.idle.p99)),
            _ms(_median(of_one, lambda one: one.saturated.p50)),
            _ms(_median(of_one, lambda one: one.saturated.p99)),
            _ms(_median(of_one, lambda one: one.step)),
            f"{_median(of_one, held_up):.2f}",
            f"{_median(of_one, lambda one: one.writes.throughput):.1f}",
        )
        for via, of_one in _grouped(mixed, lambda one: one.via)
    ]
    head = (
        "through",
        "p50 idle (ms)",
        "p99 idle (ms)",
        "p50 beside writers (ms)",
        "p99 beside writers (ms)",
        "a gradient step (ms)",
        "p99 beside / (idle + step)",
        "WRITE/s meanwhile",
    )
    return _section(
        "READ",
        about,
        _loads(section.runs),
        "read.svg",
        f"{mixed[0].idle.concurrency} readers alone, and beside {mixed[0].writes.concurrency}"
        f" writers (K = {section.steps}) that keep the device busy:",
        table(head, rows),
    )


def _loads(runs: Sequence[Sequence[Load]]) -> str:
    loads = [one for run in runs for one in run]
    rows = [
        (
            via,
            str(concurrency),
            f"{_median(of_one, lambda one: one.throughput):.1f}",
            _ms(_median(of_one, lambda one: one.p50)),
            _ms(_median(of_one, lambda one: one.p99)),
            _failures(of_one),
        )
        for (via, concurrency), of_one in _grouped(loads, lambda one: (one.via, one.concurrency))
    ]
    head = ("through", "concurrency", "requests/s", "p50 (ms)", "p99 (ms)", "failed")
    return table(head, rows)


def _failures(loads: Iterable[Load]) -> str:
    """How many requests failed in all runs, by kind."""
    found: Counter[str] = Counter()
    for one in loads:
        found.update(one.failures)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(found.items())) or "0"


def _context(rows: Sequence[ContextRow]) -> str:
    about = (
        "Milliseconds for one document or query, on the device alone. `from KV cache` is the same"
        " backbone with the document's keys and values kept, `from text` runs the document again."
        " WRITE pays off from the query on from which WRITE and all READs took less time than the"
        " other way."
    )
    cells = []
    for (pairs, batch), of_one in _grouped(rows, lambda one: (one.pairs, one.batch)):
        write = _median(of_one, lambda one: one.write)
        read = _median(of_one, lambda one: one.read)
        prefill = _median(of_one, lambda one: one.prefill)
        cached = _median(of_one, lambda one: one.cached)
        reread = _median(of_one, lambda one: one.reread)
        first = of_one[0]
        cells.append(
            (
                f"{pairs} ({first.tokens})",
                str(batch),
                *(_ms(seconds) for seconds in (write, read, prefill, cached, reread)),
                *(f"{x:,}" for x in (first.memory_bytes, first.cache_bytes, first.text_bytes)),
                queries_to_pay_off(write - prefill, cached - read),
                queries_to_pay_off(write, reread - read),
            )
        )
    head = (
        "pairs (tokens)",
        "at once",
        "WRITE",
        "READ",
        "prefill",
        "from KV cache",
        "from text",
        "memory bytes",
        "KV cache bytes",
        "text bytes",
        "pays off against KV cache",
        "pays off against text",
    )
    return _section("READ after WRITE against full context", about, table(head, cells))


def queries_to_pay_off(spent: float, saved: float) -> str:
    """Queries until what is saved by each makes up for what was spent; `never` if nothing is."""
    if spent <= 0 <= saved:
        return "1"
    if saved <= 0:
        return "never"
    return f"{spent / saved:,.0f}"


def _device(section: DeviceSection) -> str:
    first = section.efficiency[0]
    efficiency = table(
        ("", "GFLOP", "seconds", "GFLOP/s"),
        [
            (
                f"WRITE, {first.batch} documents of {first.pairs} pairs, K = {first.steps}",
                *_rate(first.write_flop, _median(section.efficiency, lambda one: one.write)),
            ),
            (
                "plain sgemm of the layers' shapes",
                *_rate(first.gemm_flop, _median(section.efficiency, lambda one: one.gemm)),
            ),
        ],
    )
    unrolled = table(
        ("pairs", "batch", "K", "serving (s)", "unrolled (s)", "serving (MiB)", "unrolled (MiB)"),
        [
            (
                *(str(number) for number in (one.pairs, one.batch, one.steps)),
                f"{statistics.median(one.serving):.3f}",
                f"{statistics.median(one.unrolled):.3f}",
                _mib(one.serving_bytes),
                _mib(one.unrolled_bytes),
            )
            for one in section.unrolled
        ],
    )
    steps = sorted({one.steps for one in section.peaks})
    peaks = table(
        ("documents at once", *(f"K = {count}" for count in steps)),
        [
            (str(batch), *(_mib(one.bytes) for one in sorted(of_one, key=lambda one: one.steps)))
            for batch, of_one in _grouped(section.peaks, lambda one: one.batch)
        ],
    )
    return _section(
        "The device",
        "Floating-point operations done, as torch counts the matrix products:",
        efficiency,
        "Serving WRITE beside WRITE that keeps the graph of its steps, on unfused attention:",
        unrolled,
        f"Peak memory of WRITE beyond the model (MiB), {section.peaks[0].pairs} pairs:",
        peaks,
        "Where the time of one WRITE batch goes:",
        "profile.svg",
    )


def _overload(section: OverloadSection) -> str:
    about = (
        f"{section.offered:.0f} WRITE requests a second for {section.seconds:.0f} s, at a capacity"
        f" of {section.capacity:.1f} a second (concurrency {section.before.concurrency}, mean of"
        f" {section.before.throughput:.1f} before and {section.after.throughput:.1f} after);"
        " whoever is still waiting."
    )
    latency = [
        _ms(seconds) if seconds is not None else "" for seconds in (section.p50, section.p99)
    ]
    row = [section.sent, section.succeeded, section.refused, section.failed, section.unanswered]
    head = ("sent", "succeeded", "refused (429)", "failed", "unanswered")
    return _section(
        "Overload",
        about,
        table(
            (*head, "goodput (1/s)", "p50 (ms)", "p99 (ms)"),
            [(*(f"{number:,}" for number in row), f"{section.goodput:.1f}", *latency)],
        ),
    )


def _growth(section: GrowthSection) -> str:
    first, last = first_footprint(section.footprints), section.footprints[-1]
    rows = [(f"{one.requests:,}", _mib(one.bytes)) for one in (first, last)]
    about = f"Resident memory of the service's process; {section.failed} requests failed."
    return _section("Memory over many requests", about, table(("requests", "MiB"), rows))


def _throughputs(title: str, runs: Sequence[Sequence[Load]]) -> str:
    loads = [one for run in runs for one in run]
    rows = []
    for (via, concurrency), of_one in _grouped(loads, lambda one: (one.via, one.concurrency)):
        speed = _median(of_one, lambda one: one.throughput)
        rows.append((f"{via}, concurrency {concurrency}", speed, f"{speed:.1f}"))
    return bar_chart(title, rows)


def _section(title: str, *parts: str) -> str:
    shown = [
        f"![{title}]({PICTURES}/{part})" if part.endswith(".svg") else part
        for part in parts
        if part
    ]
    return "\n\n".join([f"## {title}", *shown]) + "\n"


def table(head: Row, rows: Iterable[Row]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> list[tuple[Key, list[Item]]]:
    """Items of one key together, in the order in which the keys came first."""
    found: dict[Key, list[Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return list(found.items())


def _median(items: Iterable[Item], of: Callable[[Item], float]) -> float:
    return statistics.median(of(one) for one in items)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f}" if seconds < 0.1 else f"{1000 * seconds:,.0f}"


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f}"


def _rate(flop: int, seconds: float) -> tuple[str, str, str]:
    return f"{flop / 1e9:.1f}", f"{seconds:.4f}", f"{flop / seconds / 1e9:.1f}"
