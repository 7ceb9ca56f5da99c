"""The bodies of routes for batches and jobs."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from service.schemas import (
    EXAMPLE_ID,
    MAX_DOCUMENTS,
    MemoryId,
    Problem,
    RequestBody,
    WriteRequest,
    WriteResult,
)


class WebhookRequest(RequestBody):
    """A part of the bodies of requests that may become jobs."""

    webhook_url: Annotated[str, Field(min_length=1, max_length=2048)] | None = None
    """Address to which the end of the job is sent, with `Prefer: respond-async`; its host has to be
    one that the operator allows."""


class SingleRequest(WriteRequest, WebhookRequest):
    """The body of `POST /write`."""


class BatchRequest(WebhookRequest):
    """The body of `POST /write/batch`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "documents": [
                        {"document": "Alice: +49 30 5550123", "name": "Alice"},
                        {"document": "Door code: 4711#", "ttl_seconds": 3600},
                    ]
                }
            ]
        }
    )

    documents: list[WriteRequest] = Field(min_length=1, max_length=MAX_DOCUMENTS)
    "Documents with their options, as in the body of `POST /write`."


class WrittenDocument(BaseModel):
    """The result of a document that was written."""

    memory: WriteResult


class FailedDocument(BaseModel):
    """The result of a document that was not written."""

    problem: Problem


DocumentResult = WrittenDocument | FailedDocument


class BatchResponse(BaseModel):
    """The results of documents, in their order."""

    results: list[DocumentResult]


JobStatus = Literal["queued", "running", "done", "cancelled"]

EXAMPLE_JOB: dict[str, JsonValue] = {
    "job_id": EXAMPLE_ID,
    "status": "running",
    "documents": 2,
    "written": 1,
    "failed": 0,
    "created_at": "2026-11-23T12:00:00Z",
    "ended_at": None,
    "expires_at": None,
}


class JobInfo(BaseModel):
    """A job: documents that are written after the response."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_JOB]})

    job_id: MemoryId
    status: JobStatus
    "`queued`, no document has been begun; `done`, each has a result; `cancelled`, some may have."
    documents: int
    "Number of documents."
    written: int
    "Documents that were written."
    failed: int
    "Documents that have a problem."
    created_at: datetime
    ended_at: datetime | None
    "Time at which it was done or cancelled."
    expires_at: datetime | None
    "Time at which the job and its results are forgotten; null before it has ended."


class JobsResponse(BaseModel):
    """A part of the list of jobs, the newest first."""

    jobs: list[JobInfo]
    next_cursor: str | None
    "Cursor of the next part; null at the end."


class JobResults(BaseModel):
    """The results of the documents of a job, in their order."""

    results: list[DocumentResult | None]
    "Null for a document that is not done yet, or was not when the job was cancelled."


class WebhookEvent(BaseModel):
    """The body of a webhook."""

    type: Literal["job.done", "job.cancelled"]
    timestamp: datetime
    "Time at which the job ended."
    data: JobInfo
