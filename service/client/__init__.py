"""A client of the HTTP service, for programs and the command line; it does not need torch."""

from service.client.calls import FilterOptions, PatchOptions, SamplingOptions, WriteOptions
from service.client.client import DEFAULT_URL, AsyncClient, Client
from service.client.errors import (
    ClientError,
    Conflict,
    ConnectionFailed,
    InvalidRequest,
    NotFound,
    Overloaded,
    ProblemError,
    Unavailable,
    UnexpectedResponse,
)

__all__ = [
    "DEFAULT_URL",
    "AsyncClient",
    "Client",
    "ClientError",
    "Conflict",
    "ConnectionFailed",
    "FilterOptions",
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
