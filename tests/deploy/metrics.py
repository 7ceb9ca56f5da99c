"""The metrics that the service exports, and those that rules and dashboards ask for."""

import re

from service.telemetry import Telemetry

SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
}


def exported() -> set[str]:
    """Return the names of all series of a service."""
    families = Telemetry().registry.collect()
    return {family.name + suffix for family in families for suffix in SUFFIXES[family.type]}


def named_in(expression: str) -> set[str]:
    """Return the names of a service's series in an expression of PromQL."""
    return set(re.findall(r"\bgradmem_\w+", expression))
