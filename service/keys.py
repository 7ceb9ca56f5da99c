"""API keys: a secret for a client, and the record that the store keeps of it.

A key is `gradmem_ID_SECRET`: 16 and 64 hexadecimal digits. The secret is 256 random bits, so nobody
finds it by trying, whatever a hash costs; one fast keyed hash (BLAKE2b with a salt of its own) is
enough, where passwords of people would need a slow one. A slow one would only give everybody who
sends wrong keys a way to keep the service busy.
"""

import hashlib
import hmac
import re
import secrets
from datetime import UTC, datetime
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from gradmem_core.tenants import TENANT_PATTERN

Role: TypeAlias = Literal["read", "write", "admin"]
RANKS: dict[Role, int] = {"read": 0, "write": 1, "admin": 2}
"Each role may do what those below it may."

KEY = re.compile(r"gradmem_([0-9a-f]{16})_([0-9a-f]{64})")
LARGEST_LIMIT = 2**53
Limit = Annotated[int, Field(ge=1, le=LARGEST_LIMIT)]


class KeyLimits(BaseModel):
    """Limits of a key; None for none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_second: Limit | None = None
    "Most requests per second, and at once, by all services that share the store."
    max_memories: Limit | None = None
    "Most memories that the tenant may have where this key adds one."
    max_bytes: Limit | None = None
    "Most bytes that the tenant may have in the store where this key adds some."


class ApiKey(BaseModel):
    """The record of a key. It does not hold the secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key_id: str = Field(pattern=r"^[0-9a-f]{16}$")
    "The part of the key that names it; no secret."
    tenant: str = Field(pattern=TENANT_PATTERN)
    "Tenant whose memories the key opens."
    role: Role
    "Most that the key may do."
    salt: str = Field(pattern=r"^[0-9a-f]{32}$", repr=False)
    "Key of the hash, in hexadecimal digits."
    digest: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    "Hash of the secret."
    limits: KeyLimits = KeyLimits()
    "Limits of the key."
    created_at: AwareDatetime
    "Time at which it was made, UTC."
    revoked_at: AwareDatetime | None = None
    """Time at which it was revoked. The record stays: a service whose last key was revoked must not
    become open to everyone."""

    def opens_with(self, secret: str) -> bool:
        """Return true if this is the secret of the key and it was not revoked."""
        same = hmac.compare_digest(_digest(secret, self.salt), self.digest)
        return same and self.revoked_at is None

    def revoke(self) -> Self:
        """Return the record of the key as revoked now."""
        return self.model_copy(update={"revoked_at": self.revoked_at or datetime.now(UTC)})


def make_key(tenant: str, role: Role, limits: KeyLimits) -> tuple[str, ApiKey]:
    """Make a key at random.

    Args:
        tenant: Tenant whose memories it opens.
        role: Most that it may do.
        limits: Its limits.

    Returns:
        The key, which nothing keeps, and its record.

    Raises:
        ValidationError: The tenant has no valid name.
    """
    key_id, secret, salt = secrets.token_hex(8), secrets.token_hex(32), secrets.token_hex(16)
    record = ApiKey(
        key_id=key_id,
        tenant=tenant,
        role=role,
        salt=salt,
        digest=_digest(secret, salt),
        limits=limits,
        created_at=datetime.now(UTC),
    )
    return f"gradmem_{key_id}_{secret}", record


def split_key(key: str) -> tuple[str, str] | None:
    """Return the id and the secret of a key; None where the text has another form."""
    match = KEY.fullmatch(key)
    return None if match is None else (match[1], match[2])


def _digest(secret: str, salt: str) -> str:
    return hashlib.blake2b(
        bytes.fromhex(secret), key=bytes.fromhex(salt), digest_size=32
    ).hexdigest()
