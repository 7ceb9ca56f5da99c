"""A plan in words."""

import math

from service.capacity.plan import Plan, Pool

KIBI = 1024
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
MEGA = 1e6


def describe(plan: Plan) -> str:
    """Describe a plan in words."""
    lines = [
        f"{plan.model} on {plan.device} ({plan.basis}), {plan.pages} pages a document",
        "",
        *_describe_pool("WRITE", plan.write),
        *_describe_pool("READ", plan.read),
        f"Redis: {describe_bytes(plan.redis_bytes)} on {plan.redis_primaries} primaries;"
        f" a record has {plan.record_bytes:,} bytes",
        f"network to Redis: {plan.store_bits / MEGA:,.1f} Mbit/s",
    ]
    if plan.days_to_fill is not None:
        lines.append(f"the memories are written in {plan.days_to_fill:,.1f} days")
    lines += ["", "what gives way first, in multiples of one:"]
    for limit in plan.limits:
        lines.append(f"  {limit.use:>10,.3g}  {limit.resource}")
        if limit.use > 1:
            lines.append(f"              {limit.remedy}")
    return "\n".join([*lines, "", "from " + "; ".join(plan.sources)])


def describe_bytes(count: float) -> str:
    """Describe a number of bytes in the largest unit that it fills."""
    power = min(int(math.log(max(count, 1), KIBI)), len(UNITS) - 1)
    return f"{count / KIBI**power:,.1f} {UNITS[power]}"


def _describe_pool(name: str, pool: Pool) -> list[str]:
    if not pool.devices:
        return [f"{name}: none"]
    cost = "" if pool.cost_per_million is None else f", {pool.cost_per_million:,.2f} for a million"
    return [
        f"{name}: {pool.devices:,} devices, bound by {pool.bound_by};"
        f" {pool.alone:.3g} s alone, 99 in 100 within {pool.p99:.3g} s",
        f"  {pool.device_hours_per_million:,.1f} device-hours for a million{cost}",
    ]
