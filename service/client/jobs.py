"""`SubmittedJob` and `AsyncSubmittedJob`: documents that the service writes after its response."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from service.client import calls
from service.client.errors import ProblemError
from service.client.memories import AsyncMemory, Memory, open_async_result, open_result
from service.client.sessions import AsyncSession, Session
from service.jobs.schemas import JobInfo
from service.schemas import WriteResult

JobInfoT = TypeVar("JobInfoT", covariant=True)

ENDED = ("done", "cancelled")
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
"Longest time between two looks at a job that is awaited."


def _ignore(_info: JobInfo) -> None:
    """Do nothing."""


class SubmittedJob(Generic[JobInfoT]):
    """A job of the service. `Client.submit`, `Client.jobs` and `Client.job` make them.

    Every method may raise NotFound: no job has that id, or it has been forgotten.

    Attributes:
        job_id: Its handle, by which `Client.job` finds it again.
        info: The service's description of it when this object was made; None where the handle alone
            was given. `describe` fetches the present one.
    """

    def __init__(self, session: Session, job_id: str, info: JobInfoT) -> None:
        self._session = session
        self.job_id = job_id
        self.info = info

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.job_id}>"

    def describe(self) -> JobInfo:
        """Return the present description."""
        return self._session.send(calls.show_job(self.job_id))

    def wait(
        self,
        timeout_seconds: float | None = None,
        *,
        on_look: Callable[[JobInfo], object] = _ignore,
    ) -> JobInfo:
        """Wait until the job is done or cancelled; return its description.

        Args:
            timeout_seconds: Longest wait; for ever by default.
            on_look: Called with each description before the last.

        Raises:
            TimeoutError: It has not ended in this time. It goes on.
        """
        pauses = _pauses(timeout_seconds)
        while (info := self.describe()).status not in ENDED:
            on_look(info)
            time.sleep(_next_pause(pauses, info))
        return info

    def results(self) -> list[Memory[WriteResult] | ProblemError | None]:
        """Return, in the order of the documents, the memory or the error; None if not done yet."""
        results = self._session.send(calls.job_results(self.job_id))
        return [
            None if result is None else open_result(self._session, result) for result in results
        ]

    def cancel(self) -> None:
        """Cancel the job; forget one that has ended. What is written stays."""
        return self._session.send(calls.cancel_job(self.job_id))


class AsyncSubmittedJob(Generic[JobInfoT]):
    """`SubmittedJob` for asyncio: the same arguments, results and errors."""

    def __init__(self, session: AsyncSession, job_id: str, info: JobInfoT) -> None:
        self._session = session
        self.job_id = job_id
        self.info = info

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.job_id}>"

    async def describe(self) -> JobInfo:
        """See `SubmittedJob.describe`."""
        return await self._session.send(calls.show_job(self.job_id))

    async def wait(
        self,
        timeout_seconds: float | None = None,
        *,
        on_look: Callable[[JobInfo], object] = _ignore,
    ) -> JobInfo:
        """See `SubmittedJob.wait`."""
        pauses = _pauses(timeout_seconds)
        while (info := await self.describe()).status not in ENDED:
            on_look(info)
            await asyncio.sleep(_next_pause(pauses, info))
        return info

    async def results(self) -> list[AsyncMemory[WriteResult] | ProblemError | None]:
        """See `SubmittedJob.results`."""
        results = await self._session.send(calls.job_results(self.job_id))
        return [
            None if result is None else open_async_result(self._session, result)
            for result in results
        ]

    async def cancel(self) -> None:
        """See `SubmittedJob.cancel`."""
        return await self._session.send(calls.cancel_job(self.job_id))


def _pauses(timeout_seconds: float | None) -> Iterator[float]:
    """Yield growing pauses until a time is over."""
    end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    pause = FIRST_PAUSE_SECONDS
    while end is None or (left := end - time.monotonic()) > 0:
        yield pause if end is None else min(pause, left)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _next_pause(pauses: Iterator[float], info: JobInfo) -> float:
    """Return the next pause.

    Raises:
        TimeoutError: There is none.
    """
    pause = next(pauses, None)
    if pause is None:
        raise TimeoutError(
            f"the job is {info.status}: {info.written + info.failed} of {info.documents} documents"
        )
    return pause
