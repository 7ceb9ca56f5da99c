"""Work on its way to a device of another process."""

import time
from dataclasses import dataclass, fields
from typing import Any, Self

from gradmem_core.checkpoints.checkpoint import Checkpoint
from service.engine.work import DeviceWork


@dataclass(frozen=True)
class Order:
    """Work without its checkpoint, which the other process has itself."""

    kind: type[DeviceWork]
    "Class of the work."
    content: dict[str, Any]
    "Fields of the work."
    share: str
    "The client, which gets a fair share of the device."
    seconds: float
    "Time until nobody wants the work any more: the clocks of two machines differ."
    listened: bool
    "True if somebody wants the events."

    @classmethod
    def of(cls, work: DeviceWork, *, share: str, deadline: float, listened: bool) -> Self:
        """Return the order of work; see `Executor.run` for the arguments."""
        names = [field.name for field in fields(work) if field.name != "checkpoint"]
        return cls(
            type(work),
            {name: getattr(work, name) for name in names},
            share,
            deadline - time.monotonic(),
            listened,
        )

    def open(self, checkpoint: Checkpoint) -> DeviceWork:
        """Return the work for the checkpoint of this process."""
        return self.kind(checkpoint, **self.content)
