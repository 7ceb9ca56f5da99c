"""The usage of a store by tenants, and its limits."""

from dataclasses import dataclass

from gradmem_core.errors import QuotaError


@dataclass(frozen=True)
class Usage:
    """The memories of a tenant, or of everybody, in a store."""

    memories: int = 0
    "Number of memories."
    bytes: int = 0
    "Bytes of their records: vectors, names and metadata."

    def __add__(self, other: "Usage") -> "Usage":
        """Return both together."""
        return Usage(self.memories + other.memories, self.bytes + other.bytes)

    def __sub__(self, other: "Usage") -> "Usage":
        """Return what is left without some of it."""
        return Usage(self.memories - other.memories, self.bytes - other.bytes)


@dataclass(frozen=True)
class Quota:
    """Most that a tenant may have in a store; None for any number."""

    memories: int | None = None
    bytes: int | None = None

    def check(self, usage: Usage, added: Usage) -> None:
        """Refuse what would take a tenant beyond the quota.

        Args:
            usage: What the tenant has now.
            added: What would be added at least. Where that is nothing, nothing is refused: a tenant
                who has too much may still change and delete it.

        Raises:
            QuotaError: The quota would be exceeded.
        """
        if self.memories is not None and 0 < added.memories > self.memories - usage.memories:
            raise QuotaError(
                f"the tenant has {usage.memories} memories and may have {self.memories}; delete"
                " some, or ask the operator for more",
                limit=self.memories,
            )
        if self.bytes is not None and 0 < added.bytes > self.bytes - usage.bytes:
            raise QuotaError(
                f"the memories of the tenant have {usage.bytes} bytes and may have {self.bytes},"
                f" and this would add at least {added.bytes}; delete some, or ask the operator for"
                " more",
                limit=self.bytes,
            )


NO_QUOTA = Quota()
