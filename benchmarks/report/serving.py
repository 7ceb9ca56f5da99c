"""Tables of docs/PERFORMANCE.md: the service, its device, and READ beside a KV cache."""

from pandas import DataFrame, Series, concat

from benchmarks import rows as kinds
from benchmarks.report.frames import Files, frame
from benchmarks.report.markdown import code, mebibytes, milliseconds, table

WAYS = ("HTTP", "in-process")
WARM = 1000
"Requests after which the service's memory counts as warmed up."


def write_load(files: Files) -> str:
    """Compare WRITE through HTTP, in-process and in ready batches."""
    return table(loads(files, "write"))


def read_load(files: Files) -> str:
    """Compare READ through HTTP and in-process."""
    return table(loads(files, "read"))


def loads(files: Files, operation: str) -> DataFrame:
    """Return the medians over the runs of an operation, by way and concurrency."""
    rows = frame(kinds.Load, files)
    groups = rows[rows.operation == operation].groupby(["concurrency", "via"])
    return groups[["throughput", "p50", "p99"]].median().join(groups.failed.sum()).reset_index()


def mixed_loads(files: Files) -> DataFrame:
    """Return the rows of READ alone, of READ beside writers, and of these writers."""
    rows = frame(kinds.Load, files)
    return rows[rows.gradient_step.notna()]


def mixed_load(files: Files) -> str:
    """Compare READ alone with READ beside writers that keep the device busy."""
    rows = mixed_loads(files)
    if rows.empty:
        return ""
    values = ["p50", "p99", "throughput", "gradient_step"]
    found = rows.groupby(["operation", "via"])[values].median()
    alone, beside = found.loc["read alone"], found.loc["read beside writers"]
    columns = {
        "p50 alone (ms)": alone.p50.map(milliseconds),
        "p99 alone (ms)": alone.p99.map(milliseconds),
        "p50 beside writers (ms)": beside.p50.map(milliseconds),
        "p99 beside writers (ms)": beside.p99.map(milliseconds),
        "gradient_step": alone.gradient_step,
        "p99 beside / (alone + step)": delays(rows).groupby("via").median(),
        "WRITE/s meanwhile": found.loc["writers beside read"].throughput,
    }
    return table(DataFrame(columns).reset_index())


def delays(rows: DataFrame) -> "Series[float]":
    """Return READ's p99 beside writers in multiples of that alone and a gradient step, by run.

    Args:
        rows: Those of `mixed_loads`.
    """
    p99 = rows.pivot_table(index=["via", "run"], columns="operation", values="p99")
    step = rows.groupby(["via", "run"]).gradient_step.first()
    return p99["read beside writers"] / (p99["read alone"] + step)


def break_even(files: Files) -> str:
    """Compare READ after WRITE with a KV cache and with the text, in milliseconds and bytes."""
    rows = frame(kinds.BreakEven, files)
    values = ["write", "read", "prefill", "cached", "reread"]
    values += ["memory_bytes", "cache_bytes", "text_bytes"]
    found = rows.groupby(["tokens", "batch"])[values].median()
    found["queries until cheaper than the KV cache"] = queries_to_pay_off(
        found.write - found.prefill, found.cached - found.read
    )
    found["than the text"] = queries_to_pay_off(found.write, found.reread - found.read)
    return table(found.reset_index())


def queries_to_pay_off(spent: "Series[float]", saved: "Series[float]") -> "Series[str]":
    """Return the queries until their savings make up for a cost; `never` if they save nothing."""
    count = (spent / saved).clip(lower=1)
    return count.map("{:,.0f}".format).where(saved > 0, "never")


def efficiency(files: Files) -> str:
    """Compare the floating-point operations a second of WRITE with those of plain products."""
    rows = frame(kinds.Efficiency, files)
    rows["WRITE (GFLOP/s)"] = rows.write_flop / rows.write / 1e9
    rows["plain sgemm (GFLOP/s)"] = rows.gemm_flop / rows.gemm / 1e9
    by = ["pairs", "batch", "steps"]
    values = ["WRITE (GFLOP/s)", "plain sgemm (GFLOP/s)"]
    return table(rows.groupby(by)[values].median().map("{:.1f}".format).reset_index())


def unrolled(files: Files) -> str:
    """Compare serving WRITE with WRITE that keeps the graph of its steps."""
    rows = frame(kinds.Unrolled, files)
    values = ["serving", "unrolled", "serving_bytes", "unrolled_bytes"]
    return table(rows.groupby(["pairs", "batch", "steps"])[values].median().reset_index())


def peak_memory(files: Files) -> str:
    """Show the memory that WRITE needs beyond the model (MiB), by batch and write steps."""
    rows = frame(kinds.PeakMemory, files)
    found = rows.pivot_table(index=["pairs", "batch"], columns="steps", values="bytes")
    return table(found.map(mebibytes).rename(columns="K = {}".format).reset_index())


def read_by_length(files: Files) -> str:
    """Compare READ from the memories of a short and of a long document."""
    rows = frame(kinds.ReadByLength, files)
    found = rows.groupby(["short_pairs", "long_pairs"])[["short", "long"]].median()
    return table(found.map(milliseconds).add_suffix(" (ms)").reset_index())


def operations(files: Files) -> str:
    """Show where the time of one WRITE batch goes."""
    rows = frame(kinds.Operation, files)
    rows["operation"] = rows["name"].map(code)
    rows["milliseconds"] = rows.seconds
    rows["share"] = rows.seconds / rows.groupby("file").seconds.transform("sum")
    return table(rows[["operation", "calls", "milliseconds", "share"]])


def overload(files: Files) -> str:
    """Show what the service does with more requests than it can take: medians, and all outcomes."""
    rows = frame(kinds.Overload, files)
    rows["cores"], rows["capacity"] = rows.service_cores, capacity(rows)
    outcomes = ["sent", "succeeded", "refused", "failed", "unanswered"]
    groups = rows.groupby("cores", dropna=False)
    medians = groups[["capacity", "offered", "goodput", "p50", "p99"]].median()
    found = medians.join(groups[outcomes].sum()).reset_index()
    return table(found[["cores", "capacity", "offered", *outcomes, "goodput", "p50", "p99"]])


def beside_overload(files: Files) -> str:
    """Show the requests of another client during an overload: medians, and all outcomes."""
    groups = frame(kinds.BesideOverload, files).groupby("operation", sort=False)
    found = groups[["sent", "succeeded", "refused", "failed"]].sum()
    medians = groups[["p50", "p99", "alone"]].median()
    found[["p50", "p99"]] = medians[["p50", "p99"]]
    found["p50 alone (ms)"] = medians.alone.map(milliseconds)
    return table(found.reset_index())


def company(files: Files) -> str:
    """Compare WRITE alone and beside a busy process, by how the service's threads wait."""
    rows = frame(kinds.Company, files)
    if rows.empty:
        return ""
    found = rows.pivot_table(
        index=["waiting", "device_threads"], columns="busy", values="throughput"
    )
    heads = {0: "WRITE/s alone", 1: "WRITE/s beside a busy process"}
    found = found.reset_index().rename(columns=heads | {"device_threads": "threads"})
    return table(found)


def capacity(rows: DataFrame) -> "Series[float]":
    """Return requests a second of a closed loop, the mean of before and after an overload."""
    return (rows.before + rows.after) / 2


def footprint(files: Files) -> str:
    """Show the service's memory once warm and after all requests."""
    rows = frame(kinds.Footprint, files)
    return table(concat([warm(rows).head(1), rows.tail(1)])[["requests", "failed", "bytes"]])


def warm(rows: DataFrame) -> DataFrame:
    """Return the footprints after `WARM` requests; the last where there were fewer."""
    found = rows[rows.requests >= WARM]
    return rows.tail(1) if found.empty else found


TABLES = (
    *(write_load, read_load, mixed_load, break_even, efficiency, unrolled, peak_memory),
    *(read_by_length, operations, overload, beside_overload, company, footprint),
)
