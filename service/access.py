"""Decide who may use the service, by the keys in the store."""

import logging
import math
import time
from contextlib import suppress
from dataclasses import dataclass

from pydantic import ValidationError

from gradmem_core.errors import StoreUnavailableError
from gradmem_core.tenants import DEFAULT_TENANT
from service.keys import RANKS, ApiKey, KeyLimits, Role, split_key
from service.refusals import RateLimitError, RoleError, UnauthorizedError
from service.stores import Store

CACHE_SECONDS = 5.0
"Time after which a key that was revoked opens nothing, and after which the first one is asked for."
OUTAGE_SECONDS = 3600.0
"""Time for which a key opens `/metrics` after the store last confirmed it, while the store is down:
metrics tell what is wrong then."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """A client by its key, or anyone where no key is needed."""

    tenant: str
    "Tenant whose memories the client may use."
    role: Role
    "Most that the client may do."
    key_id: str | None
    "Id of the key; None where no key was needed."
    limits: KeyLimits
    "Limits of the key."


ANYONE = Identity(DEFAULT_TENANT, "admin", None, KeyLimits())


class Access:
    """Tells clients by their keys.

    Keys are in the store, where every service that shares it finds them, and are remembered for a
    few seconds. Once there has been a key, nobody gets in without one.

    Args:
        store: The store, which is open when clients come.
        open_without_keys: Let anyone in as long as there has never been a key.
    """

    def __init__(self, store: Store, *, open_without_keys: bool) -> None:
        self._store = store
        self._closed = not open_without_keys
        self._asked_at = -math.inf
        self._known: dict[str, tuple[float, ApiKey]] = {}

    async def open(self) -> None:
        """Ask the store for the first time.

        Raises:
            StoreUnavailableError: The store cannot be reached.
        """
        self._closed = self._closed or await self._store.has_keys()
        self._asked_at = time.monotonic()

    async def identify(
        self, key: str | None, role: Role, *, without_store: bool = False
    ) -> Identity:
        """Return the client who sent a key.

        Args:
            key: The key as it was sent; None where none was.
            role: What the client is about to do.
            without_store: While the store is down, accept a key that it confirmed within the last
                hour (`OUTAGE_SECONDS`), whatever became of it since, and do not count its requests.

        Raises:
            UnauthorizedError: A key is needed, and this is not one.
            RoleError: The key may not do that.
            RateLimitError: The key sends requests faster than it may.
            StoreUnavailableError: The store cannot be asked for the key.
        """
        if not await self._needs_key():
            return ANYONE
        if key is None:
            raise UnauthorizedError.without_key()
        try:
            record = await self._open(key, role)
            await self._count(record)
        except StoreUnavailableError:
            if not without_store or (recalled := self._recall(key)) is None:
                raise
            record = _check(recalled, role)
        return Identity(record.tenant, record.role, record.key_id, record.limits)

    async def _needs_key(self) -> bool:
        if not self._closed and time.monotonic() - self._asked_at > CACHE_SECONDS:
            self._asked_at = time.monotonic()
            with suppress(StoreUnavailableError):  # what was known holds
                self._closed = await self._store.has_keys()
        return self._closed

    async def _open(self, key: str, role: Role) -> ApiKey:
        parts = split_key(key)
        if parts is not None:
            key_id, secret = parts
            record = await self._find(key_id)
            if record is not None and record.opens_with(secret):
                return _check(record, role)
        raise UnauthorizedError.with_wrong_key()

    async def _count(self, record: ApiKey) -> None:
        limit = record.limits.requests_per_second
        if limit is not None and (wait := await self._store.take_token(record.key_id, limit)) > 0:
            raise RateLimitError(limit, wait)

    def _recall(self, key: str) -> ApiKey | None:
        """Return the record of a key that was known lately, without asking the store."""
        key_id, secret = split_key(key) or ("", "")
        found_at, record = self._known.get(key_id, (-math.inf, None))
        if record is None or time.monotonic() - found_at > OUTAGE_SECONDS:
            return None
        return record if record.opens_with(secret) else None

    async def _find(self, key_id: str) -> ApiKey | None:
        found_at, record = self._known.get(key_id, (-math.inf, None))
        if time.monotonic() - found_at <= CACHE_SECONDS:
            return record
        text = await self._store.find_key(key_id)
        self._known.pop(key_id, None)
        if text is None:
            return None
        try:
            record = ApiKey.model_validate_json(text)
        except ValidationError:
            logger.warning("the record of key %s is damaged, or of a later version", key_id)
            return None
        self._known[key_id] = (time.monotonic(), record)
        return record


def _check(record: ApiKey, role: Role) -> ApiKey:
    """Return the record of a key that may do something; refuse any other."""
    if RANKS[record.role] < RANKS[role]:
        raise RoleError(record.role, role)
    return record
