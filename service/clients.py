"""Tell clients apart: by their keys and, where none are needed, by their addresses."""

from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Network, ip_address

from fastapi import Request, params
from fastapi.security import HTTPBearer

from service.access import Identity
from service.app_state import state_of
from service.correlation import current_request
from service.engine import Operation
from service.keys import Role
from service.stores import Quota

SITE_PREFIX = 64
"Bits of an IPv6 address that one client has to itself: it may choose the others anew each time."
RESPOND_ASYNC = "respond-async"


class _Needs(HTTPBearer):
    """The dependency that `needs` returns.

    One dependency does all of it: FastAPI takes as long for another one as this takes for its work.
    """

    def __init__(
        self,
        role: Role,
        operation: Operation | None,
        unless: Callable[[Request], bool],
        *,
        without_store: bool,
    ) -> None:
        super().__init__(auto_error=False, scheme_name="key", description="A key of the service.")
        self._role = role
        self._operation: Operation | None = operation
        self._unless = unless
        self._without_store = without_store

    async def __call__(self, request: Request) -> None:  # type: ignore[override]
        credentials = await super().__call__(request)
        identity = await state_of(request).access.identify(
            None if credentials is None else credentials.credentials,
            self._role,
            without_store=self._without_store,
        )
        request.state.identity = identity
        if (known := current_request()) is not None:
            known.tenant, known.key_id = identity.tenant, identity.key_id
        if self._operation is not None and not self._unless(request):
            _refuse_overload(request, self._operation)


def needs(
    role: Role,
    *,
    operation: Operation | None = None,
    unless: Callable[[Request], bool] = lambda _: False,
    without_store: bool = False,
) -> params.Depends:
    """Return the dependency that lets in clients who have at least this role.

    It comes before every other dependency of a route. A route without one cannot reach memories:
    it has no tenant.

    Args:
        role: The role.
        operation: What the request asks of the engine. Where any like it would be refused, it is
            refused before its body is read: under overload most requests are, and reading them
            would take the time of those that are not. None to refuse nothing.
        unless: Returns whether a request can wait for the engine, and is not to be refused.
        without_store: See `Access.identify`.
    """
    return params.Depends(_Needs(role, operation, unless, without_store=without_store))


def identity_of(request: Request) -> Identity:
    """Return the client whose request this is; the route has to have `needs(...)`."""
    identity: Identity = request.state.identity
    return identity


def tenant_of(request: Request) -> str:
    """Return the tenant whose memories a request may use; the route has to have `needs(...)`."""
    return identity_of(request).tenant


def quota_of(request: Request) -> Quota:
    """Return what the tenant of a request may have in the store: by its key, or by the settings."""
    limits, settings = identity_of(request).limits, state_of(request).settings
    return Quota(
        memories=limits.max_memories or settings.max_memories,
        bytes=limits.max_bytes or settings.max_memory_bytes,
    )


def client_of(request: Request) -> str:
    """Return the client who gets a fair share: a tenant or, where no key is needed, an address.

    Clients behind one proxy count as one, unless the proxy is on this machine and names them
    (`X-Forwarded-For`, as uvicorn reads it).
    """
    identity = identity_of(request)
    if identity.key_id is not None:
        return f"tenant {identity.tenant}"
    return "" if request.client is None else _site_of(request.client.host)


@lru_cache(maxsize=1024)
def _site_of(host: str) -> str:
    """Return the address of a host, or the part of it that one client has to itself."""
    try:
        address = ip_address(host)
    except ValueError:  # not a connection over the internet protocols
        return host
    if isinstance(address, IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or IPv6Network((int(address), SITE_PREFIX), strict=False))


def prefers_async(request: Request) -> bool:
    """Return true where a client does not want to wait for the result (RFC 7240)."""
    preferences = ",".join(request.headers.getlist("prefer")).lower().split(",")
    return any(each.partition(";")[0].strip() == RESPOND_ASYNC for each in preferences)


def _refuse_overload(request: Request, operation: Operation) -> None:
    state = state_of(request)
    length = request.headers.get("content-length", "")
    # A byte of a document is at most a token. A body without a length may be the largest.
    tokens = int(length) if length.isdecimal() else state.settings.max_body_bytes
    steps = max(each.model.config.max_write_steps for each in state.models.all())
    state.engine.refuse_if_full(operation, client_of(request), units=tokens * steps)
