"""Do the work of the engine on the replicas of two deployments: one for WRITE, one for READ."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ray.exceptions import RayError, RayTaskError
from ray.serve.handle import DeploymentHandle

from gradmem_core.errors import DeviceLostError, EngineStoppedError, GradMemError
from service.engine import Operation, StepMade, TokenChosen
from service.engine.executor import Listener
from service.engine.order import Order
from service.engine.pace import Pace, Stopwatch
from service.engine.work import DeviceWork, Result

ATTEMPTS = 3
"Replicas that work is sent to, one after the other, before its request fails."
LOST = (RayError, EngineStoppedError, DeviceLostError)
"Errors of a replica, or its machine, that has ended before its work was done."


class FleetExecutor:
    """Sends work to replicas (an `Executor`).

    Work changes nothing but the answer, so what a lost replica has not answered is sent to another
    one. Only a client that has seen events of it is told instead: they would come again.

    Args:
        writers: The deployment for WRITE.
        readers: The deployment for READ.
    """

    def __init__(self, writers: DeploymentHandle, readers: DeploymentHandle) -> None:
        self.pace = Pace()
        self.on_failure: Callable[[], None] = lambda: None
        self._deployments = {"write": writers, "read": readers}
        self._stopwatch = Stopwatch(self.pace)
        self._running: Counter[Operation] = Counter()
        self._deleted: list[str] = []
        self._sending: set[asyncio.Task[None]] = set()

    @property
    def alive(self) -> bool:
        """Always true: Ray watches the replicas, and replaces those that end."""
        return True

    @property
    def step_seconds(self) -> float:
        """Always 0: each replica watches its own steps."""
        return 0.0

    def start(self) -> None:
        """Do nothing: Ray has started the replicas."""

    def stop(self) -> None:
        """Do nothing: Ray stops the replicas."""

    def forget(self, memory_id: str) -> None:
        """Have every replica for READ drop what it has cached of a memory."""
        if not self._deleted:  # those that are deleted together go in one message
            task = asyncio.create_task(self._send_deleted())
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
        self._deleted.append(memory_id)

    async def run(
        self, work: DeviceWork, *, share: str, deadline: float, listener: Listener | None
    ) -> Result:
        """Do a piece of work on a replica, on another one if that is lost (see `Executor`)."""
        seen = False

        def notify(event: StepMade | TokenChosen) -> None:
            nonlocal seen
            seen = True
            assert listener is not None
            listener(event)

        with self._timing(work):
            for _ in range(ATTEMPTS):
                order = Order.of(
                    work, share=share, deadline=deadline, listened=listener is not None
                )
                try:
                    return await self._run_on_replica(work, order, notify)
                except RayTaskError:  # the replica goes on: its code failed in an unforeseen way
                    raise
                except LOST:
                    if seen:
                        break
            raise DeviceLostError("a replica ended before it was done; send the request again")

    async def _run_on_replica(self, work: DeviceWork, order: Order, notify: Listener) -> Result:
        replicas = self._deployments[work.operation].options(stream=True)
        messages = replicas.run.remote(
            order, model=work.checkpoint.name, fingerprint=work.checkpoint.fingerprint
        )
        try:
            async for message in messages:
                if isinstance(message, GradMemError):
                    raise message
                if not isinstance(message, StepMade | TokenChosen):
                    result: Result = message
                    return result
                notify(message)
        except BaseException:
            messages.cancel()
            raise
        raise EngineStoppedError("a replica stopped before it was done")

    @contextmanager
    def _timing(self, work: DeviceWork) -> Iterator[None]:
        """Time the replicas: the pace is that of all of them at the work of this process."""
        operation = work.operation
        self._running[operation] += 1
        self._stopwatch.run(operation, True, time.monotonic())
        try:
            yield
            self._stopwatch.observe(operation, work.checkpoint.name, work.units, time.monotonic())
        finally:
            self._running[operation] -= 1
            self._stopwatch.run(operation, self._running[operation] > 0, time.monotonic())

    async def _send_deleted(self) -> None:
        deleted, self._deleted = self._deleted, []
        sent = self._deployments["read"].broadcast("forget", deleted)
        await sent.results_async(return_exceptions=True)  # a replica that has ended has forgotten
