"""The engine: admission, the scheduler and the device."""

from service.engine.device import Device, TorchDevice
from service.engine.engine import Admission, Engine
from service.engine.scheduler import Limits
from service.engine.work import (
    Event,
    PageId,
    ReadWork,
    StepMade,
    Steps,
    TokenChosen,
    WriteWork,
    WrittenMemory,
)

__all__ = [
    "Admission",
    "Device",
    "Engine",
    "Event",
    "Limits",
    "PageId",
    "ReadWork",
    "StepMade",
    "Steps",
    "TokenChosen",
    "TorchDevice",
    "WriteWork",
    "WrittenMemory",
]
