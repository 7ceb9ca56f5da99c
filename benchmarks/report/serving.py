"""Tables of docs/PERFORMANCE.md: the service, its device, and READ beside a KV cache."""

from collections.abc import Callable, Sequence

from pandas import DataFrame, Series, concat

from benchmarks.report.frames import frame
from benchmarks.report.markdown import code, mebibytes, milliseconds, table
from benchmarks.results import ResultFile
from benchmarks.rows import (
    BreakEven,
    Efficiency,
    Footprint,
    Load,
    Operation,
    Overload,
    PeakMemory,
    ReadByLength,
    Unrolled,
)

WARM = 1000
"Requests after which the service's memory counts as warmed up."
Files = Sequence[ResultFile]


def render(files: Files) -> str:
    """Return every table of the service's measurements (Markdown); empty where there are none."""
    tables = [(title, of_files(files)) for title, of_files in TABLES.items()]
    return "\n\n".join(f"**{title}**\n\n{text}" for title, text in tables if text)


def write_load(files: Files) -> str:
    """Compare WRITE through HTTP, in-process and in ready batches."""
    return _load(files, "write")


def read_load(files: Files) -> str:
    """Compare READ through HTTP and in-process."""
    return _load(files, "read")


def loads(files: Files, operation: str) -> DataFrame:
    """Return the medians over the runs of an operation, by way and concurrency."""
    rows = frame(Load, files)
    rows = rows[rows.operation == operation]
    groups = rows.groupby(["concurrency", "via"])
    found = groups[["throughput", "p50", "p99"]].median().join(groups.failed.sum())
    return found.reset_index()


def mixed_load(files: Files) -> str:
    """Compare READ alone with READ beside writers that keep the device busy."""
    rows = frame(Load, files)
    rows = rows[rows.gradient_step.notna()]
    if rows.empty:
        return ""
    values = ["p50", "p99", "throughput", "gradient_step"]
    found = rows.groupby(["operation", "via"])[values].median()
    alone, beside = found.loc["read alone"], found.loc["read beside writers"]
    columns = {
        "through": alone.index.to_series(),
        "p50 alone (ms)": alone.p50.map(milliseconds),
        "p99 alone (ms)": alone.p99.map(milliseconds),
        "p50 beside writers (ms)": beside.p50.map(milliseconds),
        "p99 beside writers (ms)": beside.p99.map(milliseconds),
        "a gradient step (ms)": alone.gradient_step.map(milliseconds),
        "p99 beside / (alone + step)": delays(rows).groupby("via").median(),
        "WRITE/s meanwhile": found.loc["writers beside read"].throughput,
    }
    return table(DataFrame(columns))


def delays(rows: DataFrame) -> "Series[float]":
    """Return READ's p99 beside writers in multiples of that alone and a gradient step, by run.

    Args:
        rows: Those of `Load` that have a gradient step.
    """
    p99 = rows.pivot_table(index=["via", "run"], columns="operation", values="p99")
    step = rows.groupby(["via", "run"]).gradient_step.first()
    return p99["read beside writers"] / (p99["read alone"] + step)


def break_even(files: Files) -> str:
    """Compare READ after WRITE with a KV cache and with the text, in time and bytes."""
    rows = frame(BreakEven, files)
    times = ["write", "read", "prefill", "cached", "reread"]
    sizes = ["memory_bytes", "cache_bytes", "text_bytes"]
    found = rows.groupby(["tokens", "batch"])[[*times, *sizes]].median().reset_index()
    columns = {
        "tokens": found.tokens,
        "at once": found.batch,
        "WRITE": found.write.map(milliseconds),
        "READ": found.read.map(milliseconds),
        "prefill": found.prefill.map(milliseconds),
        "from KV cache": found.cached.map(milliseconds),
        "from text": found.reread.map(milliseconds),
        "memory bytes": found.memory_bytes,
        "KV cache bytes": found.cache_bytes,
        "text bytes": found.text_bytes,
        "pays off against KV cache": [
            queries_to_pay_off(spent, saved)
            for spent, saved in zip(
                found.write - found.prefill, found.cached - found.read, strict=True
            )
        ],
        "pays off against text": [
            queries_to_pay_off(spent, saved)
            for spent, saved in zip(found.write, found.reread - found.read, strict=True)
        ],
    }
    return table(DataFrame(columns))


def queries_to_pay_off(spent: float, saved: float) -> str:
    """Return the queries until their savings make up for the cost; `never` if they save nothing."""
    if spent <= 0 <= saved:
        return "1"
    return "never" if saved <= 0 else f"{spent / saved:,.0f}"


def efficiency(files: Files) -> str:
    """Compare the floating-point operations a second of WRITE with those of plain products."""
    rows = frame(Efficiency, files)
    if rows.empty:
        return ""
    first = rows.iloc[0]
    write = f"WRITE, {first.batch} documents of {first.pairs} pairs, K = {first.steps}"
    flop = Series({write: first.write_flop, "plain sgemm of the layers' shapes": first.gemm_flop})
    seconds = Series({flop.index[0]: rows.write.median(), flop.index[1]: rows.gemm.median()})
    columns = {
        "work": flop.index,
        "GFLOP": (flop / 1e9).map("{:.1f}".format),
        "seconds": seconds.map("{:.4f}".format),
        "GFLOP/s": (flop / seconds / 1e9).map("{:.1f}".format),
    }
    return table(DataFrame(columns))


def unrolled(files: Files) -> str:
    """Compare serving WRITE with WRITE that keeps the graph of its steps."""
    rows = frame(Unrolled, files)
    values = ["serving", "unrolled", "serving_bytes", "unrolled_bytes"]
    found = rows.groupby(["pairs", "batch", "steps"])[values].median().reset_index()
    for name in ("serving", "unrolled"):
        found[f"{name} (s)"] = found.pop(name).map("{:.3f}".format)
        found[f"{name} (MiB)"] = found.pop(f"{name}_bytes").map(mebibytes)
    return table(found)


def peak_memory(files: Files) -> str:
    """Show the memory that WRITE needs, by batch and write steps."""
    rows = frame(PeakMemory, files)
    found = rows.pivot_table(index=["pairs", "batch"], columns="steps", values="bytes")
    found = found.map(mebibytes).rename(columns="K = {}".format)
    return table(found.reset_index())


def read_by_length(files: Files) -> str:
    """Compare READ from the memories of a short and of a long document."""
    rows = frame(ReadByLength, files)
    found = rows.groupby(["short_pairs", "long_pairs"])[["short", "long"]].median()
    return table(found.map(milliseconds).add_suffix(" (ms)").reset_index())


def operations(files: Files) -> str:
    """Show where the time of one WRITE batch goes."""
    rows = frame(Operation, files)
    rows["name"] = rows["name"].map(code)
    rows["milliseconds"] = rows.seconds
    return table(rows[["name", "calls", "milliseconds"]])


def overload(files: Files) -> str:
    """Show what the service does with more requests than it can take."""
    rows = frame(Overload, files)
    rows["capacity (1/s)"] = capacity(rows).map("{:.1f}".format)
    rows["offered (1/s)"] = rows.offered.map("{:.1f}".format)
    counts = ["sent", "succeeded", "refused", "failed", "unanswered", "goodput", "p50", "p99"]
    return table(rows[["capacity (1/s)", "offered (1/s)", *counts]])


def capacity(rows: DataFrame) -> "Series[float]":
    """Return requests a second of a closed loop, the mean of before and after an overload."""
    return (rows.before + rows.after) / 2


def footprint(files: Files) -> str:
    """Show the service's memory once warm and after all requests."""
    rows = frame(Footprint, files)
    ends = concat([warm(rows).head(1), rows.tail(1)]).drop_duplicates()
    ends["MiB"] = ends.bytes.map(mebibytes)
    return table(ends[["requests", "failed", "MiB"]])


def warm(rows: DataFrame) -> DataFrame:
    """Return the footprints after `WARM` requests; the last where there were fewer."""
    found = rows[rows.requests >= WARM]
    return rows.tail(1) if found.empty else found


def _load(files: Files, operation: str) -> str:
    found = loads(files, operation)
    found.insert(0, "through", found.pop("via"))
    return table(found)


TABLES: dict[str, Callable[[Files], str]] = {
    "WRITE": write_load,
    "READ": read_load,
    "READ beside writers": mixed_load,
    "READ after WRITE, a KV cache and the text (milliseconds)": break_even,
    "Floating-point operations": efficiency,
    "Serving and unrolled WRITE": unrolled,
    "Peak memory of WRITE (MiB)": peak_memory,
    "READ by length": read_by_length,
    "Operations of a WRITE batch": operations,
    "Overload": overload,
    "Memory over many requests": footprint,
}
"Titles and tables."
