"""A client of the HTTP service, for programs and the command line; it does not need torch."""

from service.client.calls import FilterOptions, PatchOptions, SamplingOptions, WriteOptions
from service.client.client import DEFAULT_URL, AsyncClient, Client
from service.client.errors import (
    AccessDenied,
    ClientError,
    Conflict,
    ConnectionFailed,
    InvalidKey,
    InvalidRequest,
    NotFound,
    Overloaded,
    ProblemError,
    Unavailable,
    UnexpectedResponse,
)

__all__ = [
    "DEFAULT_URL",
    "AccessDenied",
    "AsyncClient",
    "Client",
    "ClientError",
    "Conflict",
    "ConnectionFailed",
    "FilterOptions",
    "InvalidKey",
    "InvalidRequest",
    "NotFound",
    "Overloaded",
    "PatchOptions",
    "ProblemError",
    "SamplingOptions",
    "Unavailable",
    "UnexpectedResponse",
    "WriteOptions",
]
