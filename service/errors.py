"""The one table from errors to HTTP, and the responses made of it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi.responses import JSONResponse

from gradmem_core import errors as core
from service.log import place_of
from service.schemas import Problem

logger = logging.getLogger("gradmem")

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True)
class Kind:
    """A kind of problem: its status, its stable name and its title."""

    status: int
    slug: str
    title: str

    @property
    def type(self) -> str:
        """The stable `type` of RFC 9457."""
        return f"urn:gradmem:problem:{self.slug}"


KINDS: Mapping[type[core.GradMemError], Kind] = {
    core.GradMemError: Kind(500, "internal", "Internal error"),
    core.InputError: Kind(422, "invalid-input", "Invalid input"),
    core.EmptyContextError: Kind(422, "empty-document", "Empty document"),
    core.ContextTooLongError: Kind(413, "document-too-long", "Document too long"),
    core.NoRecordError: Kind(422, "no-record", "No record in the document"),
    core.RecordTooLongError: Kind(413, "record-too-long", "Record too long"),
    core.BinaryTextError: Kind(422, "binary-text", "Not a plain text"),
    core.WordTooLongError: Kind(413, "word-too-long", "Word too long"),
    core.TooManyPagesError: Kind(413, "too-many-pages", "Too many pages"),
    core.EmptyQueryError: Kind(422, "empty-query", "Empty query"),
    core.QueryTooLongError: Kind(413, "query-too-long", "Query too long"),
    core.UnknownCharactersError: Kind(422, "unknown-characters", "Unknown characters"),
    core.WriteStepsError: Kind(422, "write-steps", "Write steps out of range"),
    core.GenerationError: Kind(422, "generation", "Generation setting out of range"),
    core.RecipeError: Kind(422, "recipe", "Invalid recipe"),
    core.DataError: Kind(422, "data", "Invalid data file"),
    core.NonFiniteLossError: Kind(422, "write-diverged", "WRITE diverged"),
    core.NotFoundError: Kind(404, "not-found", "Not found"),
    core.ModelNotFoundError: Kind(404, "model-not-found", "Model not found"),
    core.MemoryNotFoundError: Kind(404, "memory-not-found", "Memory not found"),
    core.PageNotFoundError: Kind(404, "page-not-found", "Page not found"),
    core.MemoryChangedError: Kind(409, "memory-changed", "Memory changed meanwhile"),
    core.FingerprintMismatchError: Kind(409, "fingerprint-mismatch", "Other checkpoint"),
    core.CheckpointError: Kind(500, "checkpoint", "Checkpoint cannot be used"),
    core.BlobError: Kind(500, "blob", "Stored memory cannot be used"),
    core.StoreUnavailableError: Kind(503, "store-unavailable", "Store unavailable"),
    core.EngineError: Kind(503, "engine", "Engine unavailable"),
    core.OverloadedError: Kind(429, "overloaded", "Too many requests"),
    core.DeadlineError: Kind(504, "timeout", "Timed out"),
    core.OutOfMemoryError: Kind(503, "out-of-memory", "Device out of memory"),
    core.DeviceError: Kind(503, "device", "Device failed"),
    core.DeviceLostError: Kind(503, "device-lost", "Device lost"),
    core.EngineStoppedError: Kind(503, "stopping", "Service is stopping"),
}
INVALID_REQUEST = Kind(422, "invalid-request", "Invalid request")
BODY_TOO_LARGE = Kind(413, "body-too-large", "Request body too large")
INTERNAL = KINDS[core.GradMemError]
RETRY_AFTER_SECONDS = {429: "1", 503: "5"}


def problem_of(error: core.GradMemError) -> Problem:
    """Describe an error of the tree."""
    kind = KINDS[type(error)]
    return Problem(
        type=kind.type,
        title=kind.title,
        status=kind.status,
        detail=error.message,
        limit=error.limit,
        positions=getattr(error, "positions", None),
    )


def unexpected(error: Exception) -> Problem:
    """Log the place of an error that nobody foresaw, and describe it without its text."""
    logger.error("unexpected %s\n%s", type(error).__name__, place_of(error))
    return Problem(
        type=INTERNAL.type,
        title=INTERNAL.title,
        status=INTERNAL.status,
        detail="the service failed; the operator finds the place in the log",
    )


def response_of(problem: Problem) -> JSONResponse:
    """The HTTP response of a problem."""
    retry = RETRY_AFTER_SECONDS.get(problem.status)
    return JSONResponse(
        problem.model_dump(exclude_none=True),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers={"Retry-After": retry} if retry else None,
    )
