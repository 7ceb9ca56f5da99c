"""Refusals of requests by what they are, before any of their work begins.

    RefusalError
    ├── MalformedRequestError     it is no HTTP
    ├── HeaderTimeoutError        its header does not arrive
    ├── HeaderTooLargeError       its header is too large
    ├── TooManyConnectionsError   all connections are at work
    ├── HostRefusedError          it is for another host
    ├── UnauthorizedError         it has no key, or a wrong one
    ├── RoleError                 its key may not do that
    ├── RateLimitError            its key has had its requests of this second
    ├── BodyTimeoutError          its body does not arrive
    ├── BodyTooLargeError         its body is too large
    ├── MediaTypeError            its body is not declared as JSON
    ├── ContentEncodingError      its body is compressed
    ├── MemoryTakenError          it would overwrite a memory
    ├── KeyReusedError            its idempotency key came with another body before
    ├── WriteInFlightError        a request with its idempotency key is being worked on
    ├── TooManyKeysError          its tenant has too many idempotency keys
    ├── JobNotFoundError          it names no job of its tenant
    ├── TooManyJobsError          its tenant has too many jobs
    └── WebhookRefusedError       its webhook is not for a host that is allowed

`service.errors` holds their statuses.
"""

import math
from datetime import timedelta
from typing import Self


class RefusalError(Exception):
    """A request is refused.

    Args:
        detail: Cause of the refusal, and what to do about it.
        limit: The limit that was hit, where there was one.
        headers: Headers of the response.
    """

    def __init__(
        self, detail: str, *, limit: int | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.limit = limit
        self.headers = headers


class MalformedRequestError(RefusalError):
    """The bytes of a client are no HTTP."""

    def __init__(self) -> None:
        super().__init__("this is not a request of HTTP/1.1; check the client, or use TLS's port")


class HeaderTimeoutError(RefusalError):
    """A header did not arrive in time.

    Args:
        seconds: The time that it may take.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"the header did not arrive within {seconds:g} s (GRADMEM_HEADER_TIMEOUT_SECONDS)"
        )


class BodyTimeoutError(RefusalError):
    """A body did not arrive in time.

    Args:
        seconds: The time that it may take.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"the body did not arrive within {seconds:g} s (GRADMEM_BODY_TIMEOUT_SECONDS); send"
            " less at a time"
        )


class HeaderTooLargeError(RefusalError):
    """A header is larger than the limit.

    Args:
        limit: Largest header, in bytes.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"the header has more than {limit} bytes; send fewer or shorter fields",
            limit=limit,
            headers={"Connection": "close"},
        )


class TooManyConnectionsError(RefusalError):
    """Every connection within the limit is at work.

    Args:
        limit: Most connections at a time.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"all {limit} connections are at work (GRADMEM_MAX_CONNECTIONS); try again in a moment",
            limit=limit,
            headers={"Connection": "close"},
        )


class HostRefusedError(RefusalError):
    """A request is for a host that the service does not answer for."""

    def __init__(self) -> None:
        super().__init__(
            "the service does not answer for the host that the request names; add it to"
            " GRADMEM_ALLOWED_HOSTS, or use one that is there"
        )


class UnauthorizedError(RefusalError):
    """A request has no key, or one that opens nothing.

    Args:
        detail: See the base class.
        fault: The error of RFC 6750; empty where no key was sent.
    """

    def __init__(self, detail: str, fault: str = "") -> None:
        super().__init__(detail, headers={"WWW-Authenticate": f'Bearer realm="gradmem"{fault}'})

    @classmethod
    def without_key(cls) -> Self:
        """Return the refusal of a request that has no key."""
        return cls(
            "a key is needed: send it as the header Authorization: Bearer KEY (`gradmem` and the"
            " client take it from GRADMEM_KEY); `gradmem keys create` makes one"
        )

    @classmethod
    def with_wrong_key(cls) -> Self:
        """Return the refusal of a request whose key opens nothing; it does not tell why."""
        return cls(
            "the key is incomplete, unknown or revoked; check it, or ask the operator for another",
            ', error="invalid_token"',
        )


class RoleError(RefusalError):
    """A key may not do what a request asks for.

    Args:
        role: The role of the key.
        needed: The role that the request needs.
    """

    def __init__(self, role: str, needed: str) -> None:
        super().__init__(
            f"the key has the role {role}, and this needs the role {needed}; use another key",
            headers={"WWW-Authenticate": 'Bearer realm="gradmem", error="insufficient_scope"'},
        )


class RateLimitError(RefusalError):
    """A key sends requests faster than it may.

    Args:
        limit: Requests per second.
        seconds: Time until one more may come.
    """

    def __init__(self, limit: int, seconds: float) -> None:
        super().__init__(
            f"the key may send {limit} requests per second; wait, or ask the operator for more",
            limit=limit,
            headers={"Retry-After": str(math.ceil(seconds))},
        )


class BodyTooLargeError(RefusalError):
    """A body is larger than the limit.

    Args:
        size: Bytes declared, or received so far.
        limit: Largest body, in bytes.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"the request body has at least {size} bytes and at most {limit} are accepted"
            " (GRADMEM_MAX_BODY_BYTES); send a smaller one",
            limit=limit,
        )


class MediaTypeError(RefusalError):
    """A body is not declared as JSON."""

    def __init__(self) -> None:
        super().__init__(
            "the body has to be JSON, with the header Content-Type: application/json",
            headers={"Accept": "application/json"},
        )


class ContentEncodingError(RefusalError):
    """A body is compressed."""

    def __init__(self) -> None:
        super().__init__(
            "the body has a Content-Encoding, and only plain bodies are accepted; send it as it is",
            headers={"Accept-Encoding": "identity"},
        )


class MemoryTakenError(RefusalError):
    """An imported memory has the id of another one."""

    def __init__(self) -> None:
        super().__init__(
            "another memory has this id, and an import overwrites nothing; delete that one first,"
            " or choose another id"
        )


class KeyReusedError(RefusalError):
    """An idempotency key came with another body before."""

    def __init__(self) -> None:
        super().__init__(
            "the Idempotency-Key came with another body within the last 24 hours; take a new key"
            " for every new request"
        )


class WriteInFlightError(RefusalError):
    """A request with the same idempotency key is being worked on.

    Args:
        seconds: Time until it is known to be, or not to be, worked on still.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(
            "a request with this Idempotency-Key is being worked on; send it again later for its"
            " result",
            headers={"Retry-After": str(max(1, math.ceil(seconds)))},
        )


class TooManyKeysError(RefusalError):
    """A tenant has as many idempotency keys as it may.

    Args:
        limit: Most of them.
        kept: Time for which each is remembered.
    """

    def __init__(self, limit: int, kept: timedelta) -> None:
        seconds = math.ceil(kept.total_seconds())
        super().__init__(
            f"the tenant has sent {limit} different Idempotency-Keys"
            f" (GRADMEM_MAX_IDEMPOTENCY_KEYS), each of which is remembered for {seconds} s; wait"
            " until the oldest are forgotten, send the request without one, or ask the operator"
            " for more",
            limit=limit,
            headers={"Retry-After": str(seconds)},  # by then all of them are forgotten
        )


class JobNotFoundError(RefusalError):
    """No job of the tenant has an id."""

    def __init__(self) -> None:
        super().__init__("no job has this id, or it has expired")


class TooManyJobsError(RefusalError):
    """A tenant has as many jobs that have not ended as it may.

    Args:
        limit: Most of them.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"{limit} jobs of the tenant have not ended (GRADMEM_MAX_JOBS); wait for one of them,"
            " or cancel it",
            limit=limit,
            headers={"Retry-After": "10"},
        )


class WebhookRefusedError(RefusalError):
    """A webhook may not be sent to an address."""

    def __init__(self) -> None:
        super().__init__(
            "webhook_url has to be http:// or https:// with a host of GRADMEM_WEBHOOK_HOSTS,"
            " without user and password; ask the operator to allow the host"
        )
