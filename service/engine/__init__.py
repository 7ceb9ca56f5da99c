"""The engine: queue, batches and the device thread."""

from service.engine.engine import Engine, Limits
from service.engine.work import ReadWork, WriteWork, WrittenMemory

__all__ = ["Engine", "Limits", "ReadWork", "WriteWork", "WrittenMemory"]
