"""The engine: admit requests, and have an executor do their work.

The event loop only admits and awaits; no work of the device ever runs on it.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from torch import Tensor

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import DeadlineError, OverloadedError
from gradmem_core.reading.answers import Answer
from gradmem_core.reading.sampling import Sampling
from gradmem_core.writing.compression import Steps, WrittenPage
from service.engine.admission import Admission, AdmissionLimits, Deadline, Permit
from service.engine.executor import Executor, Listener
from service.engine.pace import Operation
from service.engine.work import (
    DeviceWork,
    PageKey,
    ReadWork,
    Result,
    StepMade,
    TokenChosen,
    list_reads,
    list_writes,
)
from service.telemetry import Telemetry


class Engine:
    """Runs the work of many requests on one executor.

    Every request is answered: with its result, with the error of its own work, or with the
    engine's. Use `start` before the first request and `stop` after the last.

    Args:
        executor: Does the work.
        limits: Limits on the requests taken on.
        telemetry: Metrics of the requests.
    """

    def __init__(self, executor: Executor, limits: AdmissionLimits, telemetry: Telemetry) -> None:
        self._executor = executor
        self._longest = limits.seconds
        self._telemetry = telemetry
        self._admission = Admission(limits, executor.pace)

    @property
    def alive(self) -> bool:
        """True while the executor takes work."""
        return self._executor.alive

    @property
    def step_seconds(self) -> float:
        """Time that the step on the device has taken so far; 0 between steps."""
        return self._executor.step_seconds

    def start(self) -> None:
        """Start the executor."""
        self._executor.start()

    def stop(self) -> None:
        """Refuse all remaining requests, and end the executor."""
        self._executor.stop()

    @contextmanager
    def admit(
        self, works: Sequence[DeviceWork], *, share: str, deadline: Deadline
    ) -> Iterator[Permit]:
        """Take a request on, for as long as the body runs.

        Args:
            works: The work that is known of it, of one operation; at least one.
            share: The client, which gets a fair share of the device.
            deadline: Its deadline.

        Raises:
            OverloadedError: There is no room for it, or it would wait too long.
        """
        with self._counting_refusals():
            permit = self._admission.admit(works, share=share, deadline=deadline)
        try:
            yield permit
        finally:
            self._admission.release(permit)

    def refuse_if_full(self, operation: Operation, share: str, *, units: int = 0) -> None:
        """Refuse a request before its body is read, if it would be refused whatever it holds.

        Args:
            operation: The operation.
            share: The client.
            units: Most work that it can be, as `DeviceWork.units` counts it.

        Raises:
            OverloadedError: Every such request would be refused.
        """
        with self._counting_refusals():
            self._admission.refuse_if_full(operation, share, units=units)

    async def write_pages(
        self,
        checkpoint: Checkpoint,
        pages: Sequence[list[int]],
        steps: Steps,
        *,
        first_page: int = 0,
        permit: Permit | None = None,
        listener: Callable[[StepMade], None] | None = None,
    ) -> list[WrittenPage]:
        """Write the pages of a document, many at a time.

        Args:
            checkpoint: The checkpoint that writes.
            pages: Token ids of each page, at least one page.
            steps: Gradient steps (K) of each page.
            first_page: Number of the first page in the events.
            permit: That of the request; None for work of the service itself.
            listener: Called on the event loop with every gradient step.

        Returns:
            The result of each page.

        Raises:
            GradMemError: The first page that failed, which ends the others: WRITE diverged, or an
                EngineError.
        """
        works = list_writes(checkpoint, pages, steps, first_page=first_page)
        return cast("list[WrittenPage]", await self._run_all(works, permit, listener))

    async def read_pages(
        self,
        checkpoint: Checkpoint,
        memory: Tensor,
        page_keys: Sequence[PageKey] | None,
        queries: Sequence[Sequence[int]],
        sampling: Sequence[Sampling],
        *,
        permit: Permit | None = None,
    ) -> list[Answer]:
        """Answer queries from the pages of a memory, many at a time.

        Args:
            checkpoint: The checkpoint that wrote the memory.
            memory: Its pages, `(p, m, d)`.
            page_keys: Keys under which the prefilled pages are cached for later requests; None
                caches nothing.
            queries: Their token ids, within the checkpoint's limits (see `check_queries`).
            sampling: The sampling settings of each query.
            permit: That of the request; None for work of the service itself.

        Returns:
            The answer to each query, from the page chosen for it.

        Raises:
            GradMemError: An EngineError, which ends all of the work.
        """
        works = list_reads(checkpoint, memory, queries, sampling, page_keys=page_keys)
        return await self.answer(works, permit=permit)

    async def answer(
        self,
        works: Sequence[ReadWork],
        *,
        permit: Permit | None = None,
        listener: Callable[[TokenChosen], None] | None = None,
    ) -> list[Answer]:
        """Answer queries, as `list_reads` splits them; for the arguments see `write_pages`.

        Raises:
            GradMemError: An EngineError, which ends all of the work.
        """
        results = cast("list[list[Answer]]", await self._run_all(works, permit, listener))
        return [answer for answers in results for answer in answers]

    def deadline(self, seconds: float | None) -> Deadline:
        """Return the deadline of a request that arrives now.

        Args:
            seconds: Time that it asks for; the engine's own limit where that is shorter, or None.
        """
        most = self._longest
        seconds = most if seconds is None else min(seconds, most)
        return Deadline(seconds, time.monotonic() + seconds)

    def forget(self, memory_id: str) -> None:
        """Drop what is cached of a memory that was deleted."""
        self._executor.forget(memory_id)

    @contextmanager
    def _counting_refusals(self) -> Iterator[None]:
        try:
            yield
        except OverloadedError:
            self._telemetry.rejected.inc()
            raise

    async def _run_all(
        self, works: Sequence[DeviceWork], permit: Permit | None, listener: Listener | None
    ) -> list[Result]:
        """Run the work of a request; the first error ends it all."""
        end = permit.deadline if permit else self.deadline(None)
        try:
            async with asyncio.timeout(end.at - time.monotonic()), asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._run_one(work, permit, end, listener)) for work in works
                ]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        except TimeoutError as error:
            raise DeadlineError(
                f"no result within {end.seconds:g} s; send less at a time, or allow more time"
            ) from error
        return [task.result() for task in tasks]

    async def _run_one(
        self, work: DeviceWork, permit: Permit | None, end: Deadline, listener: Listener | None
    ) -> Result:
        share = permit.share if permit else ""
        try:
            return await self._executor.run(work, share=share, deadline=end.at, listener=listener)
        finally:
            if permit:
                self._admission.finish(permit, work)
