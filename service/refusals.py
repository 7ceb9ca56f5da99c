"""Refusals of requests by what they are, before any of their work begins.

    RefusalError
    ├── MalformedRequestError     it is no HTTP
    ├── HeaderTimeoutError        its header does not arrive
    ├── HeaderTooLargeError       its header is too large
    ├── TooManyConnectionsError   all connections are at work
    ├── HostRefusedError          it is for another host
    ├── BodyTimeoutError          its body does not arrive
    ├── BodyTooLargeError         its body is too large
    ├── MediaTypeError            its body is not declared as JSON
    └── ContentEncodingError      its body is compressed

`service.errors` holds their statuses.
"""


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
