"""A client of the HTTP service, for programs and the command line; docs/CLIENT.md describes it.

It needs httpx and pydantic alone.
"""

from service.client.async_client import AsyncClient
from service.client.client import Client
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
from service.client.jobs import AsyncSubmittedJob, SubmittedJob
from service.client.memories import AsyncMemory, Memory
from service.client.options import (
    AppendOptions,
    BatchDocument,
    FilterOptions,
    PageOptions,
    PatchOptions,
    SamplingOptions,
    WriteOptions,
)
from service.client.phases import handle_message, render_messages
from service.client.sessions import DEFAULT_URL
from service.client.streams import AsyncStream, Stream

__all__ = [
    "DEFAULT_URL",
    "AccessDenied",
    "AppendOptions",
    "AsyncClient",
    "AsyncMemory",
    "AsyncStream",
    "AsyncSubmittedJob",
    "BatchDocument",
    "Client",
    "ClientError",
    "Conflict",
    "ConnectionFailed",
    "FilterOptions",
    "InvalidKey",
    "InvalidRequest",
    "Memory",
    "NotFound",
    "Overloaded",
    "PageOptions",
    "PatchOptions",
    "ProblemError",
    "SamplingOptions",
    "Stream",
    "SubmittedJob",
    "Unavailable",
    "UnexpectedResponse",
    "WriteOptions",
    "handle_message",
    "render_messages",
]
