"""The pace of the device: the time that its work takes, by what it did lately."""

from typing import Literal, TypeAlias

Operation: TypeAlias = Literal["write", "read"]

HALF_LIFE_SECONDS = 10.0
"Time at work after which a measurement counts half."


class Pace:
    """Seconds that a unit of work takes, for each operation and checkpoint.

    The device thread observes, and any thread may ask: each entry is replaced as a whole.
    """

    def __init__(self) -> None:
        self._lately: dict[tuple[Operation, str], tuple[float, float]] = {}

    def observe(self, operation: Operation, checkpoint: str, units: int, seconds: float) -> None:
        """Record work.

        Args:
            operation: The operation.
            checkpoint: Name of its checkpoint.
            units: Units done.
            seconds: Time since the units before, while there was work of this operation. It
                includes what else the device did meanwhile.
        """
        before, time = self._lately.get((operation, checkpoint), (0.0, 0.0))
        kept = 0.5 ** (seconds / HALF_LIFE_SECONDS)
        self._lately[operation, checkpoint] = (kept * before + units, kept * time + seconds)

    def seconds(self, operation: Operation, checkpoint: str, units: int) -> float:
        """Return the time that work takes; 0 as long as nothing is known."""
        done, time = self._lately.get((operation, checkpoint), (0.0, 0.0))
        return units * time / done if done else 0.0

    def most_seconds(self, operation: Operation, units: int) -> float:
        """Return the time that work takes with the slowest checkpoint."""
        names = [name for kind, name in list(self._lately) if kind == operation]
        return max((self.seconds(operation, name, units) for name in names), default=0.0)


class Stopwatch:
    """Times the work of each operation while there is any, for the pace.

    Args:
        pace: Observes the times.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._since: dict[Operation, float] = {}

    def run(self, operation: Operation, busy: bool, now: float) -> None:
        """Start where there is work again, and stop where there is none."""
        if busy:
            self._since.setdefault(operation, now)
        else:
            self._since.pop(operation, None)

    def observe(self, operation: Operation, checkpoint: str, units: int, now: float) -> None:
        """Record work that was done since the last record."""
        self._pace.observe(operation, checkpoint, units, now - self._since[operation])
        self._since[operation] = now
