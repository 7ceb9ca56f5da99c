"""Tables of docs/RELIABILITY.md."""

from pandas import DataFrame

from benchmarks import reliability_rows as kinds
from benchmarks.report.frames import Files, frame
from benchmarks.report.markdown import mebibytes, milliseconds, table

SOAKED = ("write", "read", "list", "delete", "p99")
"Latencies of a soak."


def faults(files: Files) -> str:
    """Show what faults of stores and processes cost."""
    rows = frame(kinds.Fault, files)
    counts = ["acknowledged", "deleted", "refused", "cut", "unanswered", "lost", "wrong"]
    return table(rows[["fault", "store", "times", *counts, "undeleted", "ready"]])


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


TABLES = (faults, isolation, soak)
