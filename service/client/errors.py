"""The errors of the client.

    ClientError
    ├── InvalidKey            the key is no text that a header can hold
    ├── ConnectionFailed      the service cannot be reached, or does not answer in time
    ├── ProblemError          the service answered with a problem (RFC 9457)
    │   ├── InvalidRequest    4xx  the request is refused
    │   ├── AccessDenied      401, 403  there is no valid key, or it may not do that
    │   ├── NotFound          404  no memory, page or job of that id, or no model of that name
    │   ├── Conflict          409  another checkpoint wrote the memory, or others are at work on it
    │   ├── Overloaded        429  too many requests; try again later
    │   └── Unavailable       5xx  the service, its device or its store failed
    └── UnexpectedResponse    a response that a GradMem service does not give

The names do not end in `Error`, to differ from those of `gradmem_core.errors`: these concern a
response that came over the network, those the work itself.
"""
# ruff: noqa: N818

import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from pydantic import ValidationError

from service.schemas import Problem

PROBLEM = "application/problem+json"


class ClientError(Exception):
    """Base of the tree."""


class InvalidKey(ClientError):
    """The key is no text that a header can hold."""


class ConnectionFailed(ClientError):
    """No response came; a change that was sent may have been made all the same."""


class ProblemError(ClientError):
    """The service answered with a problem.

    Args:
        problem: The problem that the service described.
        status: The HTTP status.
        retry_after: Seconds to wait before a retry; None where the service names none.
    """

    def __init__(self, problem: Problem, *, status: int, retry_after: int | None = None) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.status = status
        self.retry_after = retry_after


class InvalidRequest(ProblemError):
    """The request is refused."""


class AccessDenied(ProblemError):
    """The service asks for a key, does not know this one, or does not let it do that."""


class NotFound(ProblemError):
    """No memory, page or job has that id, or it is gone, or no model has that name."""


class Conflict(ProblemError):
    """Another checkpoint wrote the memory, others keep changing it, or its WRITE is under way."""


class Overloaded(ProblemError):
    """The service has no room for the request now."""


class Unavailable(ProblemError):
    """The service, its device or its store failed."""


class UnexpectedResponse(ClientError):
    """The response is not one of a GradMem service; the base URL may be that of another server.

    Args:
        message: The error's message.
        status: The HTTP status; None where no header could be read.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


BY_STATUS = {401: AccessDenied, 403: AccessDenied, 404: NotFound, 409: Conflict, 429: Overloaded}

UNREACHABLE = "cannot reach the service at {url}: start it with `gradmem serve` or name another URL"
TRANSLATIONS: dict[type[Exception], tuple[type[ClientError], str]] = {
    httpx.HTTPError: (ConnectionFailed, "the connection to {url} failed; try again"),
    httpx.ConnectError: (ConnectionFailed, UNREACHABLE),
    httpx.ConnectTimeout: (ConnectionFailed, UNREACHABLE),
    httpx.TimeoutException: (
        ConnectionFailed,
        "no response from {url} in time; try again, or allow a longer timeout",
    ),
    httpx.ProxyError: (ConnectionFailed, "the proxy refused to connect to {url}"),
    httpx.UnsupportedProtocol: (
        ConnectionFailed,
        "{url!r} is not a base URL: it must begin with http:// or https://",
    ),
    httpx.InvalidURL: (ConnectionFailed, "{url!r} is not a valid base URL"),
    UnicodeError: (ConnectionFailed, "{url!r} has no valid host name"),
    httpx.DecodingError: (UnexpectedResponse, "the response from {url} cannot be decoded"),
    httpx.TooManyRedirects: (UnexpectedResponse, "{url} redirects too many times"),
    httpx.HTTPStatusError: (UnexpectedResponse, "{url} answered with an unexpected status"),
    httpx.CookieConflict: (UnexpectedResponse, "{url} set conflicting cookies"),
    httpx.StreamError: (UnexpectedResponse, "the response from {url} ended early"),
}
"Translations of httpx's errors by base class, the nearest first. UnicodeError: no valid host name."


@contextmanager
def translate_errors(base_url: str) -> Iterator[None]:
    """Turn httpx's errors into errors of this tree.

    Args:
        base_url: Base URL of the request; messages name it without its password.

    Raises:
        ClientError: In place of any error of httpx.
    """
    try:
        yield
    except tuple(TRANSLATIONS) as error:
        ours, message = next(
            TRANSLATIONS[base] for base in type(error).__mro__ if base in TRANSLATIONS
        )
        raise ours(message.format(url=hide_password(base_url))) from error


def hide_password(url: str) -> str:
    """Return a URL without user name and password."""
    return re.sub(r"//[^/]*@", "//", url)


def error_of(response: httpx.Response) -> ClientError:
    """Return the error for a response that is not a success."""
    if not response.headers.get("content-type", "").startswith(PROBLEM):
        return unexpected_response(response)
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return unexpected_response(response)
    seconds = response.headers.get("retry-after", "")
    retry_after = int(seconds) if re.fullmatch(r"[0-9]{1,9}", seconds) else None
    return error_of_problem(problem, response.status_code, retry_after=retry_after)


def error_of_problem(
    problem: Problem, status: int, *, retry_after: int | None = None
) -> ProblemError:
    """Return the error for a problem; see `ProblemError` for the arguments."""
    kind = BY_STATUS.get(status, InvalidRequest if status < 500 else Unavailable)
    return kind(problem, status=status, retry_after=retry_after)


def unexpected_response(response: httpx.Response) -> UnexpectedResponse:
    """Return the error for a response that a GradMem service does not give."""
    url = hide_password(str(response.request.url.copy_with(raw_path=b"/")))
    return UnexpectedResponse(
        f"status {response.status_code} from {url} with a body that GradMem does not send;"
        " check that the base URL is that of a GradMem service",
        status=response.status_code,
    )
