"""Tables of docs/SCALING.md: constants of the plan, plans, and how far off they are."""

from pandas import DataFrame

from benchmarks import rows as kinds
from benchmarks.report.frames import Files, frame
from benchmarks.report.markdown import table
from service.capacity.arithmetic import ModelShape
from service.capacity.constants import packaged_constants
from service.capacity.description import describe_bytes
from service.capacity.plan import Workload, make_plan

STORED = (10**6, 10**8, 10**9)
"Memories of the plans that are shown."
DAYS = 30
"Days in which they are written."
READS = 10
"READs for each memory meanwhile."
SECONDS_PER_DAY = 86_400


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


def capacity_constants(_files: Files) -> str:
    """Show the constants of the plan, and the results that they are from."""
    lines = [
        {
            "device": device.title,
            "basis": device.basis,
            "operation": kind,
            "a pass (ms)": f"{1000 * rate.pass_seconds:.3g}",
            "GFLOP/s": f"{rate.flops / 1e9:,.3g}",
            "source": rate.source,
        }
        for device in packaged_constants().devices.values()
        for kind, rates in (("WRITE", device.write), ("READ", device.read))
        for rate in rates
    ]
    return table(DataFrame(lines))


def capacity_plans(
    _files: Files, model: str = "prose", device: str = "h200", tokens: str = "300"
) -> str:
    """Show plans for more and more memories, each written once in `DAYS` and read `READS` times.

    Args:
        model: The checkpoint.
        device: The kind of device.
        tokens: Tokens of a document.
    """
    shape = ModelShape.load(model)
    lines = []
    for memories in STORED:
        rate = memories / DAYS / SECONDS_PER_DAY
        load = Workload(
            documents_per_second=rate,
            reads_per_second=READS * rate,
            tokens=int(tokens),
            memories=memories,
        )
        plan = make_plan(load, shape, packaged_constants(), device)
        lines.append(
            {
                "memories": f"{memories:,}",
                "WRITE/s": f"{rate:,.1f}",
                "devices for WRITE": plan.write.devices,
                "READ/s": f"{READS * rate:,.0f}",
                "devices for READ": plan.read.devices,
                "Redis": describe_bytes(plan.redis_bytes),
                "primaries": plan.redis_primaries,
                "Mbit/s to Redis": f"{plan.store_bits / 1e6:,.0f}",
                "device-hours for a million WRITEs": f"{plan.write.device_hours_per_million:,.1f}",
                "of READs": f"{plan.read.device_hours_per_million:,.1f}",
                "scarcest": plan.limits[0].resource,
            }
        )
    return table(DataFrame(lines))


PRINTED = (step_time, redis_cost, open_load)
