"""Every error that the client raises.

    ClientError
    ├── ConnectionFailed      no answer: the service cannot be reached, or not in time
    ├── ProblemError          the service answered with a problem (RFC 9457)
    │   ├── InvalidRequest    4xx  what was sent cannot be used
    │   ├── NotFound          404  no memory, or no model, of that name
    │   ├── Conflict          409  the memory was written by another checkpoint
    │   ├── Overloaded        429  no room now; try again later
    │   └── Unavailable       5xx  the service failed, or a part it needs did
    └── UnexpectedResponse    an answer that GradMem's service does not give

The names lack an `Error` at the end, so that they differ from those of `gradmem_core.errors`: these
are about an answer that came over the network, those about the work itself.
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


class ConnectionFailed(ClientError):
    """No answer came; a WRITE that was sent may have been done all the same."""


class ProblemError(ClientError):
    """The service answered with a problem.

    Args:
        problem: What the service said was wrong and what to change.
        status: The HTTP status.
        retry_after: Seconds to wait before another try; None where the service names none.
    """

    def __init__(self, problem: Problem, *, status: int, retry_after: int | None = None) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.status = status
        self.retry_after = retry_after


class InvalidRequest(ProblemError):
    """What was sent cannot be used."""


class NotFound(ProblemError):
    """No memory has that id, or it has expired, or no model has that name."""


class Conflict(ProblemError):
    """The memory was written by another checkpoint than the one now served."""


class Overloaded(ProblemError):
    """The service has no room for the request now."""


class Unavailable(ProblemError):
    """The service, its device or its store failed."""


class UnexpectedResponse(ClientError):
    """The answer is not one of GradMem's service; another server may stand at the base URL."""


BY_STATUS = {404: NotFound, 409: Conflict, 429: Overloaded}

UNREACHABLE = "cannot reach the service at {url}: start it with `gradmem serve` or name another URL"
TRANSLATIONS: dict[type[Exception], tuple[type[ClientError], str]] = {
    httpx.HTTPError: (ConnectionFailed, "the connection to {url} failed; try again"),
    httpx.ConnectError: (ConnectionFailed, UNREACHABLE),
    httpx.ConnectTimeout: (ConnectionFailed, UNREACHABLE),
    httpx.TimeoutException: (
        ConnectionFailed,
        "no answer from {url} in time; try again, or allow a longer timeout",
    ),
    httpx.ProxyError: (ConnectionFailed, "the proxy refused to connect to {url}"),
    httpx.UnsupportedProtocol: (
        ConnectionFailed,
        "{url!r} is no base URL: it has to begin with http:// or https://",
    ),
    httpx.InvalidURL: (ConnectionFailed, "{url!r} is no valid base URL"),
    UnicodeError: (ConnectionFailed, "{url!r} has no valid host name"),
    httpx.DecodingError: (UnexpectedResponse, "the answer of {url} cannot be decoded"),
    httpx.TooManyRedirects: (UnexpectedResponse, "{url} redirects without end"),
    httpx.HTTPStatusError: (UnexpectedResponse, "{url} answered with an unexpected status"),
    httpx.CookieConflict: (UnexpectedResponse, "{url} set cookies that contradict each other"),
    httpx.StreamError: (UnexpectedResponse, "the answer of {url} ended before it was read"),
}
"httpx's errors and ours; the nearest base class counts. UnicodeError: a host name without IDNA."


@contextmanager
def translated(base_url: str) -> Iterator[None]:
    """Turn what httpx raises inside into errors of this tree.

    Args:
        base_url: Where the request goes; the message names it, without a password.

    Raises:
        ClientError: Something did.
    """
    try:
        yield
    except tuple(TRANSLATIONS) as error:
        ours, message = next(
            TRANSLATIONS[base] for base in type(error).__mro__ if base in TRANSLATIONS
        )
        raise ours(message.format(url=without_password(base_url))) from error


def without_password(url: str) -> str:
    """A URL without user name and password."""
    return re.sub(r"//[^/]*@", "//", url)


def refusal_of(response: httpx.Response) -> ClientError:
    """The error of a response that is not a success."""
    try:
        if not response.headers.get("content-type", "").startswith(PROBLEM):
            return unexpected(response)
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return unexpected(response)
    status = response.status_code
    kind = BY_STATUS.get(status, InvalidRequest if status < 500 else Unavailable)
    seconds = response.headers.get("retry-after", "")
    retry_after = int(seconds) if re.fullmatch(r"[0-9]{1,9}", seconds) else None
    return kind(problem, status=status, retry_after=retry_after)


def unexpected(response: httpx.Response) -> UnexpectedResponse:
    """The error of a response that GradMem's service does not give."""
    url = without_password(str(response.request.url.copy_with(raw_path=b"/")))
    return UnexpectedResponse(
        f"status {response.status_code} from {url} with a body that GradMem does not send;"
        " is the base URL that of its service?"
    )
