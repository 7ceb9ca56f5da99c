"""Heads of memories, and the order and the tags by which stores list them.

A store keeps an index beside its records: for each tag an ordered set of positions. A list walks
the set of one tag, newest first, and checks every head against the whole filter: the records
decide, and an entry that an interrupted change left behind lists nothing.
"""

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b

from gradmem_core.errors import InputError
from gradmem_core.tenants import DEFAULT_TENANT, TENANT_PATTERN

MEMORY_ID = re.compile(r"[0-9a-f]{32}")
TENANT = re.compile(TENANT_PATTERN)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIME_DIGITS = 18
"Digits of the last microsecond that a datetime has."
POSITION = re.compile(rf"[0-9]{{{TIME_DIGITS}}}[0-9a-f]{{32}}")
NEWEST = "~"
"A text behind every position."
TAG_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class MemoryHead:
    """A memory without its blob. Name and metadata are secrets of users: repr omits them.

    Raises:
        ValueError: The id is not one that `new_memory_id` makes, the tenant has no valid name, or a
            time is not in UTC.
    """

    memory_id: str
    model: str
    metadata: dict[str, str] = field(repr=False)
    created_at: datetime
    expires_at: datetime | None = None
    tenant: str = DEFAULT_TENANT
    name: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not MEMORY_ID.fullmatch(self.memory_id):
            raise ValueError("a memory id is 32 lower-case hexadecimal digits")
        if not TENANT.fullmatch(self.tenant):
            raise ValueError("a tenant is 1 to 63 lower-case letters, digits, - and _")
        for moment in (self.created_at, self.expires_at):
            if moment is not None and moment.utcoffset() != timedelta(0):
                raise ValueError("created_at and expires_at must have the time zone UTC")

    @property
    def key(self) -> str:
        """The key of the memory; see `memory_key`."""
        return memory_key(self.tenant, self.memory_id)

    def lives_at(self, moment: datetime) -> bool:
        """Return True if the memory has not expired by then."""
        return self.expires_at is None or self.expires_at > moment

    @property
    def position(self) -> str:
        """The place of the memory in lists: texts in reverse order are memories, newest first."""
        return position_of(self.created_at, self.memory_id)

    @property
    def tags(self) -> frozenset[str]:
        """The tags under which the memory is listed."""
        tags = {_tag(self.tenant), _tag(self.tenant, "model", self.model)}
        tags |= {_tag(self.tenant, "metadata", *entry) for entry in self.metadata.items()}
        if self.name is not None:
            tags.add(_tag(self.tenant, "name", self.name))
        if self.expires_at is not None:
            tags.add(_tag(self.tenant, "expires"))
        return frozenset(tags)


@dataclass(frozen=True, kw_only=True)
class MemoryFilter:
    """Conditions on memories, all of which have to hold; those that are None or empty always do."""

    name: str | None = None
    model: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    expires_before: datetime | None = None
    "The memory expires before this time."

    @property
    def is_empty(self) -> bool:
        """True where every memory passes."""
        return self == MemoryFilter()

    def tag(self, tenant: str) -> str:
        """Return the tag whose set is walked: that which is likely to list the fewest memories."""
        if self.name is not None:
            return _tag(tenant, "name", self.name)
        if self.metadata:
            return _tag(tenant, "metadata", *next(iter(self.metadata.items())))
        if self.expires_before is not None:
            return _tag(tenant, "expires")
        if self.model is not None:
            return _tag(tenant, "model", self.model)
        return _tag(tenant)

    def passes(self, head: MemoryHead) -> bool:
        """Return True if every condition holds for a memory."""
        return (
            self.name in (None, head.name)
            and self.model in (None, head.model)
            and self.metadata.items() <= head.metadata.items()
            and (
                self.expires_before is None
                or (head.expires_at is not None and head.expires_at < self.expires_before)
            )
        )


@dataclass(frozen=True)
class MemoryList:
    """A part of a list of memories."""

    memories: list[MemoryHead]
    cursor: str | None
    "Beginning of the next part; None at the end. A part may be short, or empty, before the end."


def memory_key(tenant: str, memory_id: str) -> str:
    """Return the key under which memories are stored and cached.

    It has the tenant in it, so that a foreign id is not found in the way in which a missing one is
    not. That of the default tenant is the id alone, as before tenants.
    """
    return memory_id if tenant == DEFAULT_TENANT else f"{tenant}:{memory_id}"


def split_key(key: str) -> tuple[str, str]:
    """Return the tenant and the id in a key."""
    tenant, _, memory_id = key.rpartition(":")
    return tenant or DEFAULT_TENANT, memory_id


def position_of(created_at: datetime, item_id: str) -> str:
    """Return the place of a memory, or of a job, in a list by its time of creation."""
    return f"{max(0, to_microseconds(created_at)):0{TIME_DIGITS}d}{item_id}"


def memory_id_at(position: str) -> str:
    """Return the id of the memory at a position."""
    return position[TIME_DIGITS:]


def check_cursor(cursor: str | None) -> None:
    """Refuse a cursor that no list can have returned; None begins anew.

    Raises:
        InputError: It is no position.
    """
    if cursor is not None and not POSITION.fullmatch(cursor):
        raise InputError("cursor is not the next_cursor of a list; leave it out to begin anew")


def tenant_of_tag(tag: str) -> str:
    """Return the tenant whose memories a tag lists."""
    return tag[1 : tag.index("}")]


def to_microseconds(moment: datetime) -> int:
    """Return a time as microseconds since 1970, exactly."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def from_microseconds(microseconds: int) -> datetime:
    """Return the time that `to_microseconds` counted."""
    return EPOCH + timedelta(microseconds=microseconds)


def _tag(tenant: str, *condition: str) -> str:
    """Return a tag, which shows no metadata; a Redis Cluster keeps those of a tenant together."""
    digest = blake2b(json.dumps(condition).encode(), digest_size=TAG_BYTES).hexdigest()
    return f"{{{tenant}}}:{digest}"
