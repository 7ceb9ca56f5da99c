"""Work on its way to a replica."""

import time
from dataclasses import dataclass, fields
from typing import Any, Self

from service.engine.work import DeviceWork
from service.models import Models


@dataclass(frozen=True)
class Order:
    """Work without its checkpoint, which the replica has itself."""

    kind: type[DeviceWork]
    "Class of the work."
    content: dict[str, Any]
    "Fields of the work."
    model: str
    "Name of the checkpoint."
    fingerprint: str
    "Fingerprint of the checkpoint."
    share: str
    "The client, which gets a fair share of the replica."
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
            work.checkpoint.name,
            work.checkpoint.fingerprint,
            share,
            deadline - time.monotonic(),
            listened,
        )

    def open(self, models: Models) -> DeviceWork:
        """Return the work with the checkpoint of a replica.

        Raises:
            FingerprintMismatchError: The replica does not have that checkpoint.
        """
        checkpoint = models.find_writer(self.fingerprint, self.model)
        return self.kind(checkpoint, **self.content)
