"""Tell clients apart, so that each gets a fair share of the device."""

from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Network, ip_address

from fastapi import Request

from service.app_state import state_of
from service.engine import Operation

SITE_PREFIX = 64
"Bits of an IPv6 address that one client has to itself: it may choose the others anew each time."


def client_of(request: Request) -> str:
    """Return the key of the client whose request this is: its address, until there are tenants.

    Clients behind one proxy count as one, unless the proxy is on this machine and names them
    (`X-Forwarded-For`, as uvicorn reads it).
    """
    if request.client is None:
        return ""
    try:
        address = ip_address(request.client.host)
    except ValueError:  # not a connection over the internet protocols
        return request.client.host
    if isinstance(address, IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or IPv6Network((int(address), SITE_PREFIX), strict=False))


def refuse_overload(operation: Operation) -> Callable[[Request], Awaitable[None]]:
    """Return the dependency that refuses a request where any like it would be refused.

    It is resolved before the body is read: under overload most requests are refused, and reading
    them would take the time of those that are not.
    """

    async def refuse(request: Request) -> None:
        state = state_of(request)
        length = request.headers.get("content-length", "")
        # A byte of a document is at most a token. A body without a length may be the largest.
        tokens = int(length) if length.isdecimal() else state.settings.max_body_bytes
        steps = max(each.model.config.max_write_steps for each in state.models.all())
        state.engine.refuse_if_full(operation, client_of(request), units=tokens * steps)

    return refuse
