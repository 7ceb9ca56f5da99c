"""The device of a process, by its settings."""

from collections.abc import Callable

from service.engine import BatchLimits, DeviceExecutor, TorchDevice
from service.engine.device_thread import DeviceThread
from service.engine.observer import WorkObserver
from service.engine.pace import Pace
from service.settings import Settings
from service.telemetry import Telemetry

CPU_STEP_WORK = 2**36
"""Most tokens times parameters of a gradient step on a CPU: two seconds on two cores, which a READ
may have to wait for. Larger batches would not be faster there."""


def create_executor(settings: Settings, telemetry: Telemetry) -> DeviceExecutor:
    """Return an executor on the settings' device, in this process."""
    return DeviceExecutor(
        _create_device(settings), batch_limits(settings), telemetry, threads=settings.threads
    )


def create_device_thread(
    settings: Settings, observer: WorkObserver, pace: Pace, *, after_turn: Callable[[], None]
) -> DeviceThread:
    """Return a thread on the settings' device; see `DeviceThread` for the other arguments."""
    return DeviceThread(
        _create_device(settings),
        batch_limits(settings),
        observer,
        pace,
        threads=settings.threads,
        after_turn=after_turn,
    )


def batch_limits(settings: Settings) -> BatchLimits:
    """Return the limits of a service's batches."""
    return BatchLimits(
        settings.max_batch_tokens,
        settings.max_batch_queries,
        CPU_STEP_WORK if settings.device.startswith("cpu") else None,
    )


def _create_device(settings: Settings) -> TorchDevice:
    return TorchDevice(prefix_bytes=settings.max_prefix_bytes)
