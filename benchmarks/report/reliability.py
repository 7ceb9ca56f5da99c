"""Tables of docs/RELIABILITY.md."""

from pandas import DataFrame

from benchmarks import reliability_rows as kinds
from benchmarks.report.frames import Files, frame
from benchmarks.report.markdown import mebibytes, milliseconds, table

SOAKED = ("write", "read", "list", "delete", "p99")
"Latencies of a soak."


def faults(files: Files) -> str:
    """Show what faults of stores and processes cost, in all measurements of each together."""
    rows = frame(kinds.Fault, files)
    counts = ["acknowledged", "deleted", "refused", "cut", "unanswered", "lost", "wrong"]
    groups = rows.groupby(["fault", "store"], sort=False)
    found = groups[["times", *counts, "undeleted"]].sum()
    return table(found.join(groups.ready.max()).reset_index())


def isolation(files: Files) -> str:
    """Show the answers to tenants who tried to reach each other's memories."""
    rows = frame(kinds.Isolation, files)
    counts = ["operations", "foreign", "leaked", "lost", "revived"]
    return table(rows[["store", "tenants", *counts]])


def soak(files: Files) -> str:
    """Show what the service holds, and how fast it answers, over a long time."""
    rows = frame(kinds.Soak, files)
    columns = {
        **{name: rows[name] for name in ("store", "part", "requests", "failed")},
        **{f"{name} (ms)": rows[name].map(milliseconds, na_action="ignore") for name in SOAKED},
        "resident (MiB)": rows.resident_bytes.map(mebibytes),
        "open files": rows.open_files,
        "threads": rows.process_threads,
        "store (MiB)": rows.store_bytes.map(mebibytes),
    }
    return table(DataFrame(columns))


def store_scale(files: Files) -> str:
    """Compare the times of stores of different sizes with those of the smallest."""
    rows = frame(kinds.StoreScale, files).sort_values("memories", kind="stable")
    if rows.empty:
        return ""
    found = rows.pivot_table(
        index=["store", "operation"], columns="memories", values=["p50", "p99"], sort=False
    )
    smallest, *larger = found.p50.columns
    columns = {
        f"p50 at {smallest:,} (ms)": found.p50[smallest].map(milliseconds),
        f"p99 at {smallest:,} (ms)": found.p99[smallest].map(milliseconds),
    }
    for size in larger:
        for name in ("p50", "p99"):
            ratio = found[name][size] / found[name][smallest]
            columns[f"{name} at {size:,} / at {smallest:,}"] = ratio.map("{:.2f}".format)
    return table(DataFrame(columns).reset_index())


def fuzz(files: Files) -> str:
    """Show the answers to random requests by route, and their sums."""
    rows = frame(kinds.FuzzedRoute, files)
    if rows.empty:
        return ""
    counts = ["requests", "succeeded", "refused", "failed", "violations"]
    found = rows.groupby("route", sort=False)[counts].sum()
    found.loc["all"] = found.sum()
    return table(found.reset_index())


TABLES = (faults, isolation, soak, store_scale, fuzz)
