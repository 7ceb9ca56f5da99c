"""Decide which requests are taken on: a request that would be late is refused at once.

Without threads or a clock. Every client is expected to get its share of the device (see `shares`),
so what a request waits for is its client's earlier work, and as much of each other client's.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from gradmem_core.errors import OverloadedError
from service.engine.pace import Operation, Pace
from service.engine.work import DeviceWork

LARGEST_PART = 4
"A request counts for at most one part in this many of the room, however large it is."
WRITE_ROOM = 0.75
"Part of the room that WRITE may take; the rest is kept for READ."
WAIT_RATIO = 10
"A WRITE may wait for this many times as long as its own work takes."
MARGIN = 0.8
"Part of a request's time in which it is expected to be done."


@dataclass(frozen=True)
class AdmissionLimits:
    """Limits on the requests that the engine takes on."""

    tokens: int
    "Most tokens of all requests in the engine; a single request may exceed it."
    seconds: float
    "Longest time that a request may take."
    wait_seconds: float = 10
    "Longest time that a request waits for others; WRITE `WAIT_RATIO` times its own, if longer."


@dataclass(frozen=True)
class Deadline:
    """The time by which a request has to be answered, over all of its calls of the engine."""

    seconds: float
    "Time that the request was given."
    at: float
    "End of that time, by `time.monotonic`."


@dataclass(eq=False)
class Permit:
    """A request that was taken on; what belongs to it is never refused later."""

    operation: Operation
    checkpoint: str
    share: str
    "The client, which has a fair share of the device."
    tokens: int
    "Room that it takes."
    units: int
    "Work that is left of it."
    deadline: Deadline


@dataclass
class _Load:
    """The requests of one operation in the engine."""

    tokens: Counter[str] = field(default_factory=Counter)
    "Room taken by each client."
    taken: int = 0
    "Room taken by all of them."
    units: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    "Work left of each client, by checkpoint."


class Admission:
    """Takes requests on or refuses them.

    Args:
        limits: The limits.
        pace: The pace of the device.
    """

    def __init__(self, limits: AdmissionLimits, pace: Pace) -> None:
        self._limits = limits
        self._pace = pace
        self._loads: dict[Operation, _Load] = {"write": _Load(), "read": _Load()}

    @property
    def tokens(self) -> int:
        """Room that is taken."""
        return sum(load.taken for load in self._loads.values())

    def admit(self, works: Sequence[DeviceWork], *, share: str, deadline: Deadline) -> Permit:
        """Take a request on.

        Args:
            works: Its work, all of one operation and checkpoint; at least one.
            share: The client.
            deadline: Its deadline.

        Raises:
            OverloadedError: There is no room for it, or it would wait too long.
        """
        operation, checkpoint = works[0].operation, works[0].checkpoint.name
        tokens = min(sum(work.tokens for work in works), self._limits.tokens // LARGEST_PART)
        units = sum(work.units for work in works)
        self._check_room(operation, share, tokens)
        own = self._pace.seconds(operation, checkpoint, units)
        most = min(self._longest_wait(operation, own), max(0, MARGIN * deadline.seconds - own))
        self._check_wait(operation, share, own, most)
        permit = Permit(operation, checkpoint, share, tokens, units, deadline)
        self._add(permit, tokens, units)
        return permit

    def finish(self, permit: Permit, work: DeviceWork) -> None:
        """Count a request's work as done, or as dropped."""
        if work.operation == permit.operation:
            done = min(work.units, permit.units)
            permit.units -= done
            self._add(permit, 0, -done)

    def release(self, permit: Permit) -> None:
        """Count a request as ended."""
        self._add(permit, -permit.tokens, -permit.units)

    def refuse_if_full(self, operation: Operation, share: str, *, units: int) -> None:
        """Refuse a request whose work is not known yet, where any would be refused.

        Args:
            operation: The operation.
            share: The client.
            units: Most work that the request can be.

        Raises:
            OverloadedError: Every request up to that size would be refused.
        """
        self._check_room(operation, share, 1)
        most_own = self._pace.most_seconds(operation, units)
        self._check_wait(operation, share, 0, self._longest_wait(operation, most_own))

    def _longest_wait(self, operation: Operation, own: float) -> float:
        return max(self._limits.wait_seconds, WAIT_RATIO * own if operation == "write" else 0)

    def _check_room(self, operation: Operation, share: str, tokens: int) -> None:
        """Refuse a client that would have more room than it leaves to others.

        So there is always some left, for clients that are new, and for READ beside WRITE.
        """
        load, most = self._loads[operation], self._limits.tokens
        held = load.tokens[share]
        free = most - self.tokens
        if operation == "write":
            free = min(free, int(WRITE_ROOM * most) - load.taken)
        if self.tokens and held + tokens > free:
            excess = min(1, (held + tokens - free) / max(1, load.taken))
            seconds = _whole_seconds(excess * sum(self._backlogs(operation).values()))
            raise OverloadedError(
                f"the service works on {self.tokens} of at most {most} tokens, {held} of them of"
                f" this client; try again in {seconds} s, and with less at a time",
                limit=most,
                retry_after=seconds,
            )

    def _check_wait(self, operation: Operation, share: str, own: float, most: float) -> None:
        others = self._backlogs(operation)
        earlier = others.pop(share, 0.0)
        wait = earlier + sum(min(backlog, earlier + own) for backlog in others.values())
        if wait > most:
            seconds = _whole_seconds(wait - most)
            raise OverloadedError(
                f"the request would wait {wait:.0f} s for the work before it, and may wait"
                f" {most:.0f} s; try again in {seconds} s",
                limit=int(most),
                retry_after=seconds,
            )

    def _backlogs(self, operation: Operation) -> dict[str, float]:
        """Return the seconds of work that each client waits for."""
        return {
            share: sum(self._pace.seconds(operation, *work) for work in units.items())
            for share, units in self._loads[operation].units.items()
        }

    def _add(self, permit: Permit, tokens: int, units: int) -> None:
        load = self._loads[permit.operation]
        load.tokens[permit.share] += tokens
        load.taken += tokens
        left = load.units[permit.share]
        left[permit.checkpoint] += units
        if not load.tokens[permit.share]:
            del load.tokens[permit.share]
        if not left[permit.checkpoint]:
            del left[permit.checkpoint]
        if not left:
            del load.units[permit.share]


def _whole_seconds(seconds: float) -> int:
    return max(1, math.ceil(seconds))
