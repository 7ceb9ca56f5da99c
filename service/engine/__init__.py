"""The engine: admission, the scheduler and the device."""

from service.engine.device import Device, TorchDevice
from service.engine.engine import Admission, Engine
from service.engine.scheduler import Limits
from service.engine.work import (
    Event,
    PageId,
    ReadWork,
    StepMade,
    TokenChosen,
    WriteWork,
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
    "TokenChosen",
    "TorchDevice",
    "WriteWork",
]
