"""Small records of the service itself, such as those of idempotent requests.

The part of a key up to its last colon names the group of the record.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from datetime import datetime


class RecordStore(ABC):
    """Records under keys, each there until it expires.

    Any operation may raise StoreUnavailableError. Where its reply is lost it may have had its
    effect.
    """

    @abstractmethod
    async def create(self, key: str, value: bytes, expires_at: datetime) -> bool:
        """Store a record; return False, and change nothing, where the key has one."""

    @abstractmethod
    async def find(self, key: str) -> bytes | None:
        """Return the record of a key; None where there is none."""

    @abstractmethod
    async def exchange(self, key: str, old: bytes, new: bytes, expires_at: datetime) -> bool:
        """Replace a record; return False, and change nothing, where it is not `old` any more."""

    @abstractmethod
    async def remove(self, key: str, old: bytes) -> bool:
        """Remove a record; return False, and change nothing, where it is not `old` any more."""

    @abstractmethod
    async def count(self, group: str) -> int:
        """Return how many records are in a group; those that expired within a minute may count."""

    @abstractmethod
    def scan(self) -> AsyncIterator[str]:
        """Yield the keys of records, each at least once, in any order."""
