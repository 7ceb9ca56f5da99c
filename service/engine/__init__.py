"""The engine: admission, the scheduler and the device."""

from service.engine.device import Device, TorchDevice
from service.engine.engine import AdmissionLimits, Engine
from service.engine.scheduler import BatchLimits
from service.engine.work import (
    Event,
    PageKey,
    ReadWork,
    StepMade,
    TokenChosen,
    WriteWork,
)
from service.engine.worker import EngineWorker

__all__ = [
    "AdmissionLimits",
    "BatchLimits",
    "Device",
    "Engine",
    "EngineWorker",
    "Event",
    "PageKey",
    "ReadWork",
    "StepMade",
    "TokenChosen",
    "TorchDevice",
    "WriteWork",
]
