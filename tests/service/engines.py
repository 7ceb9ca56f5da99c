"""Engines for tests."""

from service.engine import AdmissionLimits, BatchLimits, Device, DeviceExecutor, Engine
from service.telemetry import Telemetry


def engine_on(
    device: Device,
    batches: BatchLimits,
    admission: AdmissionLimits,
    telemetry: Telemetry | None = None,
    *,
    threads: int | None = None,
) -> Engine:
    """Return an engine whose work a device of this process does."""
    telemetry = telemetry or Telemetry()
    return Engine(DeviceExecutor(device, batches, telemetry, threads=threads), admission, telemetry)
