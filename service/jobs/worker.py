"""Write the documents of jobs, beside the requests of clients."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

from gradmem_core.errors import (
    DeviceError,
    DeviceLostError,
    EncryptionKeyError,
    EngineStoppedError,
    StoreFullError,
    StoreUnavailableError,
)
from service.correlation import correlated
from service.jobs.batch import result_of, retry_when_overloaded
from service.jobs.jobs import Jobs, write_id_of
from service.jobs.schemas import WrittenDocument
from service.leases import LeaseLostError, run_leased
from service.log import log_failure
from service.schemas import WriteResult
from service.stores import JobTask
from service.telemetry import Telemetry
from service.writing import DocumentWriter

SHARE = "jobs"
"The client as which documents of jobs share the engine: all jobs together count as one."
POLL_SECONDS = 1.0
"Time between two looks into the store, which other services fill, too."
RETRY_SECONDS = 1.0
"Pause before a document is tried again that the store did not take."
LONGEST_RETRY_SECONDS = 60.0
"Longest such pause: while the store is full it doubles, as each attempt may be a whole WRITE."
WAIT_SECONDS = 3600.0
"Longest time that a document without a timeout of its own waits until the engine admits it."
MAX_ATTEMPTS = 20
"""Times that a document is taken without an end: the services died or lost their device, perhaps by
it, or have not its key, and the next would do no better."""
COUNT_SECONDS = 5.0
"Time between two updates of the number of jobs in the metrics."
NOT_OF_THE_DOCUMENT = (
    StoreUnavailableError,
    EngineStoppedError,
    DeviceLostError,
    EncryptionKeyError,
)
"Errors after which another attempt, or another service, may write a document."

logger = logging.getLogger(__name__)


class JobWorker:
    """Writes documents of jobs until it is stopped.

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

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write while the context lasts, in which the store is open and the engine started.

        What is not written at its end is given back, for another service to write.
        """
        self._tasks = [asyncio.create_task(self._keep_writing()) for _ in range(self._at_a_time)]
        self._tasks.append(asyncio.create_task(self._keep_counting()))
        try:
            yield
        finally:
            await self.stop()

    async def stop(self) -> None:
        """Give back what is not done; may be called again."""
        for task in self._tasks:
            if not task.cancelling():  # or what it gives back would be lost
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_writing(self) -> None:
        while True:
            self._added.clear()
            try:
                task = await self._jobs.take()
                if task is not None:
                    await self._work_on(task)
                    continue
            except StoreUnavailableError:
                await asyncio.sleep(RETRY_SECONDS)
            except (EngineStoppedError, DeviceLostError):
                return  # for good; the lease of the document runs out, and its attempt counts
            except EncryptionKeyError as error:  # another service may have the key
                logger.warning("a document of a job is left to others: %s", error.message)
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
            except asyncio.CancelledError:
                with suppress(StoreUnavailableError):  # its lease will run out
                    await self._jobs.give_back(task)
                raise

    async def _write_and_finish(self, task: JobTask) -> None:
        pause = RETRY_SECONDS
        while True:
            try:
                result = await result_of(self._write(task), unless=NOT_OF_THE_DOCUMENT)
                await self._jobs.finish(task, result)
            except StoreUnavailableError as error:  # what is stored of it will be found by its id
                await asyncio.sleep(pause)
                full = isinstance(error, StoreFullError)
                pause = min(2 * pause, LONGEST_RETRY_SECONDS) if full else RETRY_SECONDS
            else:
                outcome = "written" if isinstance(result, WrittenDocument) else "failed"
                self._telemetry.job_documents.labels(outcome).inc()
                return

    async def _write(self, task: JobTask) -> WriteResult:
        if task.attempts > MAX_ATTEMPTS:
            raise DeviceError(
                f"the document was begun {MAX_ATTEMPTS} times, by services that ended or had"
                " not its encryption key; send it again in parts"
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
        seconds = accepted.request.timeout or WAIT_SECONDS
        return await retry_when_overloaded(write, seconds=seconds)

    async def _keep_counting(self) -> None:
        while True:
            with suppress(StoreUnavailableError):
                self._telemetry.jobs.set(await self._jobs.count())
            await asyncio.sleep(COUNT_SECONDS)
