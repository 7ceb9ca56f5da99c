"""Write the documents of jobs, beside the requests of clients."""

import asyncio
import logging
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Self

from gradmem_core.errors import (
    DeviceError,
    DeviceLostError,
    EngineStoppedError,
    StoreUnavailableError,
)
from service.correlation import correlated
from service.errors import problem_of
from service.jobs.batch import retry_when_overloaded
from service.jobs.jobs import Jobs, write_id_of
from service.jobs.schemas import DocumentResult, FailedDocument, WrittenDocument
from service.leases import LeaseLostError, run_leased
from service.log import log_failure
from service.stores import JobTask
from service.telemetry import Telemetry
from service.writing import DocumentWriter

SHARE = "jobs"
"The client as which documents of jobs share the engine: all jobs together count as one."
POLL_SECONDS = 1.0
"Time between two looks into the store, which other services fill, too."
RETRY_SECONDS = 1.0
"Pause before a document is tried again that the store did not take."
MAX_ATTEMPTS = 20
"""Times that a document is taken without an end; the services of all of them died, perhaps by it,
and the next would, too."""
COUNT_SECONDS = 5.0
"Time between two updates of the number of jobs in the metrics."

logger = logging.getLogger(__name__)


class JobWorker:
    """Writes documents of jobs until it is stopped.

    Use it as `async with worker:`, within which the store is open and the engine started. What it
    had not written at its end is given back, for another service to write.

    Args:
        jobs: The jobs.
        writer: Writes a document.
        telemetry: Metrics of the jobs.
        at_a_time: Documents written at a time; 0 for none.
    """

    def __init__(
        self, jobs: Jobs, writer: DocumentWriter, telemetry: Telemetry, *, at_a_time: int
    ) -> None:
        self._jobs = jobs
        self._writer = writer
        self._telemetry = telemetry
        self._at_a_time = at_a_time
        self._tasks: list[asyncio.Task[None]] = []
        self._added = asyncio.Event()
        jobs.on_added = self._added.set

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._keep_writing()) for _ in range(self._at_a_time)]
        self._tasks.append(asyncio.create_task(self._keep_counting()))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Give back what is not done; may be called again."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _keep_writing(self) -> None:
        while True:
            self._added.clear()
            try:
                task = await self._jobs.take()
                if task is not None:
                    await self._work_on(task)
                    continue
            except (StoreUnavailableError, EngineStoppedError, DeviceLostError):
                await asyncio.sleep(RETRY_SECONDS)
            except Exception as error:  # the others have to be written
                log_failure(logger, "a document of a job", error)
            await self._await_more()

    async def _await_more(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_SECONDS):
                await self._added.wait()

    async def _work_on(self, task: JobTask) -> None:
        """Write a document and note its result, while its lease lasts."""
        with correlated([]) as request:
            request.tenant = task.tenant
            try:
                await run_leased(self._write_and_finish(task), partial(self._jobs.renew, task))
            except LeaseLostError:
                logger.warning("the lease of a document was lost; another service goes on with it")
            except (asyncio.CancelledError, EngineStoppedError, DeviceLostError):
                with suppress(StoreUnavailableError):  # its lease will run out
                    await self._jobs.give_back(task)
                raise

    async def _write_and_finish(self, task: JobTask) -> None:
        while True:
            try:
                result = await self._write(task)
                await self._jobs.finish(task, result)
            except StoreUnavailableError:  # what is stored of it will be found by its id
                await asyncio.sleep(RETRY_SECONDS)
            else:
                outcome = "written" if isinstance(result, WrittenDocument) else "failed"
                self._telemetry.job_documents.labels(outcome).inc()
                return

    async def _write(self, task: JobTask) -> DocumentResult:
        """Write a document; return its memory, or the problem that is its own."""
        try:
            if task.attempts > MAX_ATTEMPTS:
                raise DeviceError(
                    f"the service ended {MAX_ATTEMPTS} times while it wrote the document; send it"
                    " again in parts"
                )
            accepted = await self._jobs.open(task)
            write = partial(
                self._writer.write,
                accepted.request,
                tenant=task.tenant,
                quota=accepted.quota,
                share=SHARE,
                write_id=write_id_of(task),
            )
            return WrittenDocument(memory=await retry_when_overloaded(write))
        except (StoreUnavailableError, EngineStoppedError, DeviceLostError):
            raise
        except Exception as error:  # the others have to be written
            return FailedDocument(problem=problem_of(error))

    async def _keep_counting(self) -> None:
        while True:
            with suppress(StoreUnavailableError):
                self._telemetry.jobs.set(await self._jobs.count())
            await asyncio.sleep(COUNT_SECONDS)
