"""The observer of the work on a device."""

from collections.abc import Sequence
from typing import Protocol

from service.engine.pace import Operation


class WorkObserver(Protocol):
    """Observes the work on a device, for metrics."""

    def observe_waiting(self, jobs: int) -> None:
        """Record the number of jobs that have not begun."""

    def observe_queue(self, operation: Operation, seconds: float) -> None:
        """Record the time from a job's arrival to its first turn."""

    def observe_gradient_step(self, lengths: Sequence[int], seconds: float) -> None:
        """Record a gradient step.

        Args:
            lengths: Tokens of each document in the batch.
            seconds: Time on the device.
        """

    def observe_token(self, queries: int, seconds: float) -> None:
        """Record a token of a READ batch; `seconds` is the time on the device."""

    def count_cancelled(self) -> None:
        """Count a job that was dropped because its client had left."""

    def count_expired(self) -> None:
        """Count a job that timed out."""
