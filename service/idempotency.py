"""Idempotent writing: a request that is sent again with its key has the effect of the first alone.

The ids of what a request writes are derived from a seed, which is stored before the work begins.
So whoever goes on with the request, after a failure or the end of a process, writes under the same
ids, where stores publish only once. The records hold digests of key and body, never their text.
"""

import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from pydantic import AwareDatetime, BaseModel

from gradmem_core.errors import GradMemError, StoreUnavailableError
from service import leases
from service.leases import LeaseLostError, run_leased
from service.offload import call_by_size
from service.refusals import (
    KeyReusedError,
    RefusalError,
    TooManyKeysError,
    WriteInFlightError,
)
from service.stores import RecordStore, Store

T = TypeVar("T")

KEPT = timedelta(hours=24)
"Time for which a key is remembered."

logger = logging.getLogger(__name__)


class ClaimRecord(BaseModel):
    """The record of a key."""

    body: str
    "Digest of the body, keyed by the key."
    seed: str
    "The seed of the ids."
    expires_at: AwareDatetime
    leased_until: AwareDatetime
    "End of the lease of the service that works on it; in the past where none does."
    result: str | None = None
    "Note on the result, of whoever claimed the key; None before there is one."

    def pack(self) -> bytes:
        """Return the record as it is stored."""
        return self.model_dump_json().encode()


@dataclass(frozen=True)
class _Digests:
    """Digests of a key and a body."""

    name: str
    body: str

    @classmethod
    def of(cls, key: str, body: BaseModel) -> "_Digests":
        secret = hashlib.sha256(key.encode()).digest()
        # Without defaults: a field that a later version adds changes no digest.
        text = body.model_dump_json(exclude_defaults=True).encode()
        return cls(_keyed(secret, b"name"), _keyed(secret, text))


class Idempotency:
    """Remembers the keys of requests.

    Args:
        store: The store, which all services that share it agree by.
        most: Most keys of a tenant; None for any number.
    """

    def __init__(self, store: Store, *, most: int | None) -> None:
        self._records = store.records
        self._most = most

    async def claim(self, tenant: str, key: str, body: BaseModel, *, size: int) -> "Claim":
        """Claim the key of a request.

        Args:
            tenant: The tenant, who has keys of its own.
            key: The key.
            body: The body of the request.
            size: About its bytes.

        Returns:
            The claim, with a result where the request was done before; otherwise to be run.

        Raises:
            KeyReusedError: It came with another body before.
            WriteInFlightError: A request with it is being worked on.
            TooManyKeysError: It is new, and the tenant has too many.
            StoreUnavailableError: The store cannot be reached.
        """
        digests = await call_by_size(size, _Digests.of, key, body)
        group = f"idempotency:{tenant}:"
        name = group + digests.name
        while True:
            now = datetime.now(UTC)
            fresh = ClaimRecord(
                body=digests.body,
                seed=secrets.token_hex(16),
                expires_at=now + KEPT,
                leased_until=_lease_end(now),
            )
            claim = Claim(self._records, name, fresh, is_new=True)
            try:
                if await self._records.create(name, fresh.pack(), fresh.expires_at):
                    await self._check_count(group)
                    return claim
            except BaseException:  # the client may have left, too
                with suppress(StoreUnavailableError):
                    await claim.forget()
                raise
            stored = await self._records.find(name)
            if stored is None:  # expired or given up meanwhile
                continue
            record = ClaimRecord.model_validate_json(stored)
            if record.body != digests.body:
                raise KeyReusedError
            if record.result is not None:
                return Claim(self._records, name, record)
            if record.leased_until > now:
                raise WriteInFlightError((record.leased_until - now).total_seconds())
            taken_over = Claim(self._records, name, record)
            if await taken_over.renew():
                return taken_over

    async def _check_count(self, group: str) -> None:
        """Refuse one key more than a tenant may have."""
        if self._most is not None and await self._records.count(group) > self._most:
            raise TooManyKeysError(self._most, KEPT)


class Claim:
    """The claim to a request with a key.

    Args:
        records: The records of the store.
        name: The name of the key's record.
        record: The record as it is stored.
        is_new: True where no request came with the key before.
    """

    def __init__(
        self, records: RecordStore, name: str, record: ClaimRecord, *, is_new: bool = False
    ) -> None:
        self._records = records
        self._name = name
        self._record = record
        self.is_new = is_new
        "True where no request came with the key before: nothing is written under its ids yet."
        self._own = {record.pack()}
        "The forms of the record that may be stored while it has the lease: replies may be lost."
        self.result = record.result
        "The note on the result of a request that was done before; None where it is to be run."

    @property
    def seed(self) -> str:
        """The seed of the ids."""
        return self._record.seed

    def derive_id(self, label: str) -> str:
        """Return an id that is the same whenever the request is sent."""
        return derive_id(self._record.seed, label)

    async def run(
        self, work: Callable[[], Awaitable[T]], note: Callable[[T], str | None] = lambda _: ""
    ) -> T:
        """Do the work of the request, and remember that it is done.

        A failure before anything can have been stored, by an earlier request with the key either,
        frees the key. After another, a request with the key goes on under the same ids.

        Args:
            work: Does the work, at most once for each of the ids that it derives.
            note: Returns the note on its result that a repetition finds; None where a repetition is
                to go on with it.

        Raises:
            WriteInFlightError: The lease ran out, and another service has taken over.
        """
        try:
            result = await run_leased(work(), self.renew)
        except LeaseLostError as error:
            raise WriteInFlightError(leases.LEASE_SECONDS) from error
        except BaseException as error:
            with suppress(StoreUnavailableError):
                frees = self.is_new and _leaves_nothing(error)
                await (self.forget() if frees else self._release())
            raise
        noted = note(result)
        is_noted = False
        with suppress(StoreUnavailableError):
            is_noted = await (self._release() if noted is None else self._exchange(result=noted))
        if not is_noted:  # a repetition finds by its ids what there is
            logger.warning("the result of an idempotent request could not be noted")
        return result

    async def renew(self) -> bool:
        """Extend the lease; return False where another service has it."""
        return await self._exchange(leased_until=_lease_end(datetime.now(UTC)))

    async def forget(self) -> None:
        """Free the key, as if the request had not been sent."""
        for stored in self._own:
            await self._records.remove(self._name, stored)

    async def _release(self) -> bool:
        """Let others go on at once; return False where another service has the lease."""
        return await self._exchange(leased_until=datetime.now(UTC))

    async def _exchange(self, **changes: object) -> bool:
        """Change the record; return False where another service has the lease."""
        while True:
            changed = self._record.model_copy(update=changes)
            old, new = self._record.pack(), changed.pack()
            self._own.add(new)  # before it is sent, for its reply may be lost
            if await self._records.exchange(self._name, old, new, changed.expires_at):
                self._record, self._own = changed, {new}
                return True
            stored = await self._records.find(self._name)
            if stored is None or stored not in self._own:
                return False
            self._record = ClaimRecord.model_validate_json(stored)


async def copy_claim(source: RecordStore, target: RecordStore, name: str) -> bool | None:
    """Copy the record of a key into another store, where that has not one as complete.

    A record without a result gives way to one with another seed: the key was freed and claimed
    again since that was copied.

    Args:
        source: The records that have it.
        target: The records that get it.
        name: The key of the record.

    Returns:
        False where the record is there already; None where it is gone.
    """
    packed = await source.find(name)
    if packed is None:
        return None
    record = ClaimRecord.model_validate_json(packed)
    there = await target.find(name)
    if there is None:
        return await target.create(name, packed, record.expires_at)
    copied = ClaimRecord.model_validate_json(there)
    if copied.result is not None or (record.result is None and record.seed == copied.seed):
        return False
    return await target.exchange(name, there, packed, record.expires_at)


def derive_id(seed: str, label: str) -> str:
    """Return an id of 32 hexadecimal digits, as hard to guess as the seed."""
    return _keyed(bytes.fromhex(seed), label.encode())


def _leaves_nothing(error: BaseException) -> bool:
    """Return true for an error that is raised before anything is stored."""
    if isinstance(error, StoreUnavailableError):
        return False
    return isinstance(error, GradMemError | RefusalError)


def _keyed(key: bytes, text: bytes) -> str:
    return hashlib.blake2b(text, key=key, digest_size=16).hexdigest()


def _lease_end(now: datetime) -> datetime:
    return now + timedelta(seconds=leases.LEASE_SECONDS)
