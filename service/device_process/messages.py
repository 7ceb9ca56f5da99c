"""The messages between the service and its device process."""

from dataclasses import dataclass
from typing import Any, TypeAlias

from gradmem_core.errors import GradMemError
from service.engine import Event, Operation
from service.engine.order import Order
from service.engine.work import Result


@dataclass(frozen=True)
class LoadCheckpoint:
    """To be loaded and tried: a checkpoint. The answer is its error; None if there is none."""

    number: int
    "Number by which orders name it."
    reference: str
    "A folder, or the name of a bundled checkpoint."
    fingerprint: str
    "The fingerprint that it must have."


@dataclass(frozen=True)
class DropCheckpoint:
    """To be dropped: a checkpoint that no request uses any more."""

    number: int


@dataclass(frozen=True)
class Begin:
    """To be done: an order."""

    job: int
    "Number of the job."
    checkpoint: int
    "Number of its checkpoint."
    order: Order


@dataclass(frozen=True)
class Cancel:
    """To be dropped: a job whose client has left."""

    job: int


@dataclass(frozen=True)
class Forget:
    """To be dropped: what is cached of a memory that was deleted."""

    memory_id: str


@dataclass(frozen=True)
class Started:
    """The beginning of a job."""

    job: int
    at: float
    "Time at which the device took it up, by `time.monotonic`."


@dataclass(frozen=True)
class Happened:
    """An event of a job."""

    job: int
    event: Event


@dataclass(frozen=True)
class Finished:
    """The end of a job."""

    job: int
    result: Result | GradMemError


@dataclass(frozen=True)
class Observed:
    """Something observed of the work: a method of `WorkObserver`, and its arguments."""

    method: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Timed:
    """Time that work took, for the pace; see `Pace.observe`."""

    operation: Operation
    checkpoint: str
    units: int
    seconds: float


@dataclass(frozen=True)
class Heartbeat:
    """A sign of life."""

    step_began: float | None
    "Start of the step on the device, by `time.monotonic`; None between steps."


Request: TypeAlias = Begin | Cancel | Forget | DropCheckpoint
"A message of the service as it works."
Report: TypeAlias = Started | Happened | Finished | Observed | Timed | Heartbeat
"A message of the process as it works."
