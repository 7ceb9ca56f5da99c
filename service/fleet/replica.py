"""A replica: checkpoints and a device in a process of their own."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from gradmem_core.errors import DeviceLostError, GradMemError
from gradmem_core.writing.compression import WrittenPage
from service.devices import create_executor
from service.engine import Event
from service.engine.order import Order
from service.engine.threads import leave_cores_to_the_engine
from service.engine.work import Result
from service.log import configure_logging
from service.models import Models
from service.readiness import STALL_SECONDS
from service.self_test import try_checkpoint
from service.settings import Settings
from service.telemetry import Telemetry

Message: TypeAlias = Event | Result | GradMemError
"A message of a replica: an event of work, or at the end its result or its error."


class Replica:
    """Does the work of orders, many at a time, in batches as the plain service does.

    Its settings are `GRADMEM_*` in the environment of its actor.

    Raises:
        CheckpointError: A checkpoint cannot be loaded, or fails its self-test.
    """

    def __init__(self) -> None:
        settings = Settings()
        configure_logging(settings.log_level, settings.log_format)
        threads = leave_cores_to_the_engine(settings.threads)
        settings = settings.model_copy(update={"threads": threads})
        self._models = Models.load(
            settings.read_checkpoints(), device=settings.device, precision=settings.precision
        )
        if settings.self_test:
            for checkpoint in self._models.all():
                try_checkpoint(checkpoint, dtype=settings.blob_dtype)
        self._executor = create_executor(settings, Telemetry())
        self._executor.on_failure = lambda: os._exit(1)  # Ray starts another
        self._executor.start()

    async def run(self, order: Order, *, model: str, fingerprint: str) -> AsyncIterator[Message]:
        """Do the work of an order; when cancelled, give its place up.

        Args:
            order: The order.
            model: Name of its checkpoint.
            fingerprint: Fingerprint of its checkpoint.
        """
        try:
            work = order.open(self._models.find_writer(fingerprint, model))
        except GradMemError as error:
            yield error
            return
        events: asyncio.Queue[Event | None] = asyncio.Queue()
        task = asyncio.create_task(
            self._executor.run(
                work,
                share=order.share,
                deadline=time.monotonic() + order.seconds,
                listener=events.put_nowait if order.listened else None,
            )
        )
        task.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            yield _outcome_of(task)
        finally:
            task.cancel()

    async def forget(self, memory_ids: Sequence[str]) -> None:
        """Drop what is cached of memories that were deleted."""
        for memory_id in memory_ids:
            self._executor.forget(memory_id)

    def check_health(self) -> None:
        """Check that the device works; Ray restarts a replica that raises.

        Raises:
            DeviceLostError: It does not.
        """
        if not self._executor.alive or self._executor.step_seconds > STALL_SECONDS:
            raise DeviceLostError("the device has stopped, or is stuck in one step")


def _outcome_of(task: "asyncio.Task[Result]") -> Message:
    try:
        result = task.result()
    except GradMemError as error:  # a value: Ray would log what is raised, with its text
        return error
    if isinstance(result, WrittenPage):  # a row of a batch, all of which would travel with it
        return replace(result, memory=result.memory.clone())
    return result
