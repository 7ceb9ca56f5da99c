"""Write the documents of a batch, a few at a time, while its client waits."""

import asyncio
import json
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from gradmem_core.errors import DeadlineError, OverloadedError
from service.errors import problem_of
from service.idempotency import Claim
from service.jobs.schemas import BatchResponse, DocumentResult, FailedDocument, WrittenDocument
from service.schemas import Problem, WriteRequest, WriteResult
from service.stores import Quota
from service.writing import DocumentWriter

T = TypeVar("T")

AT_A_TIME = 4
"Documents of a batch that are written at a time."
LONGEST_PAUSE_SECONDS = 5.0
"Longest pause before a document that was refused for overload is tried again."
TRANSIENT = {403, 409, 429, 503, 504, 507}
"Statuses of problems that may be gone when a document is sent again."


class BatchWriter:
    """Writes many documents, each with a result of its own.

    Args:
        writer: Writes one of them.
        seconds: Longest time for all of them.
    """

    def __init__(self, writer: DocumentWriter, *, seconds: float) -> None:
        self._writer = writer
        self._seconds = seconds

    async def write(
        self,
        documents: Sequence[WriteRequest],
        *,
        tenant: str,
        quota: Quota,
        share: str,
        claim: Claim | None = None,
    ) -> BatchResponse:
        """Write documents.

        Args:
            documents: The documents with their options.
            tenant: The tenant whose memories they become.
            quota: Most that the tenant may have in the store.
            share: The client, which gets a fair share of the device.
            claim: Claim to the request, where it may be sent again.
        """
        results: dict[int, DocumentResult] = {}
        waiting = iter(enumerate(documents))
        end = asyncio.get_running_loop().time() + self._seconds

        async def write_some() -> None:
            for number, document in waiting:
                write_id = None if claim is None else claim.derive_id(str(number))
                write = partial(
                    self._writer.write,
                    document,
                    tenant=tenant,
                    quota=quota,
                    share=share,
                    write_id=write_id,
                    is_new=claim is not None and claim.is_new,
                )
                written = self._write_until(end, write)
                results[number] = await result_of(written)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_A_TIME, len(documents))):
                group.create_task(write_some())
        return BatchResponse(results=[results[number] for number in range(len(documents))])

    async def find(
        self, documents: Sequence[WriteRequest], note: str, *, tenant: str, claim: Claim
    ) -> BatchResponse:
        """Return the results of an earlier batch.

        Args:
            documents: Its documents.
            note: The note of `note_problems` on its results.
            tenant: The tenant whose memories they have become.
            claim: The claim to the request.
        """
        results: list[DocumentResult] = []
        problems = json.loads(note)
        for number, (document, problem) in enumerate(zip(documents, problems, strict=True)):
            if problem is None:
                write_id = claim.derive_id(str(number))
                found = self._writer.find(document, tenant=tenant, write_id=write_id)
                results.append(await result_of(found))
            else:
                results.append(FailedDocument(problem=Problem.model_validate(problem)))
        return BatchResponse(results=results)

    async def _write_until(
        self, end: float, write: Callable[[], Awaitable[WriteResult]]
    ) -> WriteResult:
        """Write a document before the time of its batch runs out.

        Raises:
            GradMemError: It failed, or the time ran out.
        """
        try:
            async with asyncio.timeout_at(end):
                return await retry_when_overloaded(write)
        except TimeoutError as error:
            raise DeadlineError(
                f"the batch was not done within {self._seconds:g} s; send this document again, and"
                " fewer at a time, or with Prefer: respond-async"
            ) from error


async def retry_when_overloaded(
    work: Callable[[], Awaitable[T]], *, seconds: float = math.inf
) -> T:
    """Do work, as often as it takes until the engine admits it.

    Args:
        work: The work.
        seconds: Time from the first attempt after which it is given up.

    Raises:
        DeadlineError: It was not admitted in that time.
    """
    began = time.monotonic()
    while True:
        try:
            return await work()
        except OverloadedError as error:
            if time.monotonic() - began >= seconds:
                raise DeadlineError(
                    f"the service had no room for the document within {seconds:g} s; send it again"
                    " later, or with a longer timeout"
                ) from error
            # At random: documents that were refused together would come back together.
            pause = min(error.retry_after, LONGEST_PAUSE_SECONDS) * random.uniform(0.5, 1)  # noqa: S311
            await asyncio.sleep(pause)


async def result_of(
    written: Awaitable[WriteResult], *, unless: tuple[type[Exception], ...] = ()
) -> DocumentResult:
    """Await a document; return its memory, or the problem that it ended with.

    Args:
        written: The document.
        unless: Errors that are raised, as they are not results.
    """
    try:
        return WrittenDocument(memory=await written)
    except unless:
        raise
    except Exception as error:  # the others are not to end with it
        return FailedDocument(problem=problem_of(error))


def note_problems(response: BatchResponse) -> str | None:
    """Return the note by which the results are found again; None where some may get better."""
    problems = [
        result.problem if isinstance(result, FailedDocument) else None
        for result in response.results
    ]
    if any(problem is not None and problem.status in TRANSIENT for problem in problems):
        return None
    return json.dumps([problem and problem.model_dump(mode="json") for problem in problems])
