"""Turn any exception into a problem (RFC 9457), and a problem into a response."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from gradmem_core import errors as core
from service import refusals
from service.correlation import current_request
from service.log import log_failure
from service.openai.conversion import to_error
from service.schemas import MAX_NAMED_FIELDS, Problem

logger = logging.getLogger("gradmem")

MEDIA_TYPE = "application/problem+json"
OPENAI_PATH = "/v1/"
"Paths whose clients read errors in OpenAI's form alone."
RETRY_AFTER_SECONDS = {429: 1, 503: 5}
"Seconds to wait before a retry, where the error does not know better."


@dataclass(frozen=True)
class ProblemType:
    """A problem type of RFC 9457: a status, a stable name and a title."""

    status: int
    slug: str
    title: str

    @property
    def uri(self) -> str:
        """The stable `type` of its problems."""
        return f"urn:gradmem:problem:{self.slug}"

    def problem(
        self,
        detail: str,
        *,
        limit: int | None = None,
        positions: list[int] | None = None,
        errors: list[dict[str, str]] | None = None,
    ) -> Problem:
        """Return a problem of this type; see `Problem` for the arguments."""
        return Problem(
            type=self.uri,
            title=self.title,
            status=self.status,
            detail=detail,
            limit=limit,
            positions=positions,
            errors=errors,
        )


INTERNAL = ProblemType(500, "internal", "Internal error")
PROBLEM_TYPES: Mapping[type[Exception], ProblemType] = {
    Exception: INTERNAL,
    RequestValidationError: ProblemType(422, "invalid-request", "Invalid request"),
    refusals.MalformedRequestError: ProblemType(400, "malformed-request", "Malformed request"),
    refusals.HeaderTimeoutError: ProblemType(408, "header-timeout", "Header timed out"),
    refusals.BodyTimeoutError: ProblemType(408, "body-timeout", "Request body timed out"),
    refusals.BodyTooLargeError: ProblemType(413, "body-too-large", "Request body too large"),
    refusals.MediaTypeError: ProblemType(415, "media-type", "Not declared as JSON"),
    refusals.ContentEncodingError: ProblemType(415, "content-encoding", "Compressed request body"),
    refusals.MemoryTakenError: ProblemType(409, "memory-taken", "Id of another memory"),
    refusals.KeyReusedError: ProblemType(
        422, "idempotency-key-reused", "Idempotency key of another body"
    ),
    refusals.WriteInFlightError: ProblemType(409, "write-in-flight", "Being written already"),
    refusals.TooManyKeysError: ProblemType(
        429, "too-many-idempotency-keys", "Too many idempotency keys"
    ),
    refusals.JobNotFoundError: ProblemType(404, "job-not-found", "Job not found"),
    refusals.TooManyJobsError: ProblemType(429, "too-many-jobs", "Too many jobs"),
    refusals.WebhookRefusedError: ProblemType(422, "webhook", "Webhook not allowed"),
    refusals.UnauthorizedError: ProblemType(401, "unauthorized", "No valid key"),
    refusals.RoleError: ProblemType(403, "role", "Role not sufficient"),
    refusals.RateLimitError: ProblemType(429, "rate-limit", "Too many requests of this key"),
    refusals.HostRefusedError: ProblemType(421, "host", "Host not allowed"),
    refusals.HeaderTooLargeError: ProblemType(431, "header-too-large", "Header too large"),
    refusals.TooManyConnectionsError: ProblemType(503, "connections", "Too many connections"),
    core.GradMemError: INTERNAL,
    core.InputError: ProblemType(422, "invalid-input", "Invalid input"),
    core.EmptyContextError: ProblemType(422, "empty-document", "Empty document"),
    core.ContextTooLongError: ProblemType(413, "document-too-long", "Document too long"),
    core.NoRecordError: ProblemType(422, "no-record", "No record in the document"),
    core.RecordTooLongError: ProblemType(413, "record-too-long", "Record too long"),
    core.BinaryTextError: ProblemType(422, "binary-text", "Not plain text"),
    core.WordTooLongError: ProblemType(413, "word-too-long", "Word too long"),
    core.TooManyPagesError: ProblemType(413, "too-many-pages", "Too many pages"),
    core.EmptyQueryError: ProblemType(422, "empty-query", "Empty query"),
    core.QueryTooLongError: ProblemType(413, "query-too-long", "Query too long"),
    core.UnknownCharactersError: ProblemType(422, "unknown-characters", "Unknown characters"),
    core.WriteStepsError: ProblemType(422, "write-steps", "Write steps out of range"),
    core.GenerationError: ProblemType(422, "generation", "Generation setting out of range"),
    core.RecipeError: ProblemType(422, "recipe", "Invalid recipe"),
    core.DataError: ProblemType(422, "data", "Invalid data file"),
    core.NonFiniteLossError: ProblemType(422, "write-diverged", "WRITE diverged"),
    core.NotFoundError: ProblemType(404, "not-found", "Not found"),
    core.ModelNotFoundError: ProblemType(404, "model-not-found", "Model not found"),
    core.MemoryNotFoundError: ProblemType(404, "memory-not-found", "Memory not found"),
    core.PageNotFoundError: ProblemType(404, "page-not-found", "Page not found"),
    core.MemoryChangedError: ProblemType(409, "memory-changed", "Memory changed concurrently"),
    core.FingerprintMismatchError: ProblemType(
        409, "fingerprint-mismatch", "Memory of another checkpoint"
    ),
    core.CheckpointError: ProblemType(500, "checkpoint", "Unusable checkpoint"),
    core.EncryptionKeyError: ProblemType(503, "encryption-key", "Encryption key missing"),
    core.BlobError: ProblemType(500, "blob", "Unusable stored memory"),
    core.QuotaError: ProblemType(403, "quota", "Tenant has no room left"),
    core.StoreUnavailableError: ProblemType(503, "store-unavailable", "Store unavailable"),
    core.StoreFullError: ProblemType(507, "store-full", "Store full"),
    core.NotReadyError: ProblemType(503, "not-ready", "Not ready"),
    core.EngineError: ProblemType(503, "engine", "Engine unavailable"),
    core.OverloadedError: ProblemType(429, "overloaded", "Too many requests"),
    core.DeadlineError: ProblemType(504, "timeout", "Timed out"),
    core.OutOfMemoryError: ProblemType(503, "out-of-memory", "Device out of memory"),
    core.DeviceError: ProblemType(503, "device", "Device failed"),
    core.DeviceLostError: ProblemType(503, "device-lost", "Device lost"),
    core.EngineStoppedError: ProblemType(503, "stopping", "Service is stopping"),
}
"Every class of the error tree has a row of its own; `Exception` stands for unforeseen errors."


def problem_of(error: Exception) -> Problem:
    """Describe an exception to the client; log it where the service is at fault."""
    request = current_request()
    request_id = None if request is None else request.request_id
    return _describe(error).model_copy(update={"request_id": request_id})


def _describe(error: Exception) -> Problem:
    match error:
        case core.GradMemError():
            return _describe_own(error)
        case RequestValidationError():
            return _describe_invalid(error)
        case refusals.RefusalError():
            return PROBLEM_TYPES[type(error)].problem(error.detail, limit=error.limit)
        case HTTPException():
            return _describe_framework(error)
        case _:
            return _describe_unforeseen(error)


def response_of(error: Exception, path: str = "") -> JSONResponse:
    """Return the response to a request that ended with an exception.

    Args:
        error: The exception.
        path: Path of the request; empty where it is not known.
    """
    problem = problem_of(error)
    named = error.headers if isinstance(error, HTTPException | refusals.RefusalError) else None
    headers = dict(named or {})
    if problem.status in RETRY_AFTER_SECONDS:
        headers.setdefault("Retry-After", str(_seconds_to_wait(error, problem.status)))
    if path.startswith(OPENAI_PATH):
        content, media_type = to_error(problem).model_dump(), JSONResponse.media_type
    else:
        content, media_type = problem.model_dump(), MEDIA_TYPE
    return JSONResponse(content, status_code=problem.status, media_type=media_type, headers=headers)


def _seconds_to_wait(error: Exception, status: int) -> int:
    if isinstance(error, core.OverloadedError):
        return error.retry_after
    return RETRY_AFTER_SECONDS[status]


def _describe_own(error: core.GradMemError) -> Problem:
    problem_type = PROBLEM_TYPES[type(error)]
    if problem_type.status >= 500:
        cause = type(error.__cause__).__name__ if error.__cause__ else "none"
        logger.warning("%s (cause: %s)", problem_type.uri, cause)
    return problem_type.problem(
        error.message, limit=error.limit, positions=getattr(error, "positions", None)
    )


def _describe_invalid(error: RequestValidationError) -> Problem:
    fields = [
        {"field": _printable(".".join(map(str, entry["loc"]))), "message": str(entry["msg"])}
        for entry in error.errors()[:MAX_NAMED_FIELDS]
    ]
    detail = "{field}: {message}".format_map(fields[0])
    return PROBLEM_TYPES[RequestValidationError].problem(detail, errors=fields)


def _describe_framework(error: HTTPException) -> Problem:
    """Describe an error of the framework: an unknown route, or a method that it does not have."""
    return Problem(
        type="about:blank",
        title=error.detail,
        status=error.status_code,
        detail=f"{error.detail}; /docs lists the routes",
    )


def _describe_unforeseen(error: Exception) -> Problem:
    """Describe an error without its text, which may hold a document."""
    log_failure(logger, "a request", error)
    return INTERNAL.problem("the service failed; its log says where")


def _printable(name: str) -> str:
    """Return a field's name as UTF-8 can hold it; a client may invent one that it cannot."""
    return name.encode(errors="replace").decode()
