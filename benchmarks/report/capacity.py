"""Tables of docs/SCALING.md: constants of the plan, plans, and how far off they are."""

from benchmarks import rows as kinds
from benchmarks.report.frames import Files, frame
from benchmarks.report.markdown import table


def step_time(files: Files) -> str:
    """Show the time of gradient steps and answers by batch."""
    rows = frame(kinds.StepTime, files)
    rows["milliseconds"] = rows.seconds
    rows["processor (ms)"] = (1000 * rows.processor_seconds).map("{:,.1f}".format)
    columns = ["checkpoint", "operation", "tokens", "batch", "passes", "milliseconds"]
    return table(rows[[*columns, "processor (ms)"]])


def redis_cost(files: Files) -> str:
    """Show what a memory costs Redis, by the size of its record."""
    rows = frame(kinds.RedisCost, files)
    for name in ("put", "get"):
        rows[f"{name} (µs)"] = (1e6 * rows[f"{name}_seconds"]).map("{:.0f}".format)
    columns = ["record_bytes", "used_bytes", "value_bytes", "entry_bytes"]
    rows[columns] = rows[columns].astype(float).round()
    return table(rows[[*columns, "put (µs)", "get (µs)"]])


def open_load(files: Files) -> str:
    """Compare measured, simulated and calculated queues of WRITE."""
    rows = frame(kinds.OpenLoad, files)
    columns = ["capacity", "offered", "source", "sent", "refused", "goodput", "p50", "p99"]
    return table(rows[columns])


PRINTED = (step_time, redis_cost, open_load)
