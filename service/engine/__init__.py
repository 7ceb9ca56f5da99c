"""The engine: admission, the scheduler and the device."""

from service.engine.admission import AdmissionLimits, Deadline, Permit
from service.engine.device import Device, TorchDevice
from service.engine.engine import Engine
from service.engine.executor import DeviceExecutor, Executor
from service.engine.pace import Operation
from service.engine.scheduler import BatchLimits
from service.engine.work import (
    Event,
    PageKey,
    ReadWork,
    StepMade,
    TokenChosen,
    WriteWork,
    list_reads,
    list_writes,
)
from service.engine.worker import EngineWorker

__all__ = [
    "AdmissionLimits",
    "BatchLimits",
    "Deadline",
    "Device",
    "DeviceExecutor",
    "Engine",
    "EngineWorker",
    "Event",
    "Executor",
    "Operation",
    "PageKey",
    "Permit",
    "ReadWork",
    "StepMade",
    "TokenChosen",
    "TorchDevice",
    "WriteWork",
    "list_reads",
    "list_writes",
]
