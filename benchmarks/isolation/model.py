"""The model of who owns what, and what differed from it."""

from dataclasses import dataclass, field

import httpx


@dataclass
class Findings:
    """Counts of requests, and of answers that differ from the model's."""

    operations: int = 0
    foreign: int = 0
    "Requests for what another tenant has."
    leaked: int = 0
    "Those that were answered otherwise than for what nobody has."
    lost: int = 0
    "Requests for what the tenant has that were not answered as the model says."
    revived: int = 0
    "Requests for what was deleted that were answered otherwise than for what nobody has."


@dataclass
class Holdings:
    """The ids of the memories or jobs of a tenant."""

    owned: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)

    def add(self, item_id: str) -> None:
        """Note that the tenant has it."""
        self.owned.add(item_id)
        self.deleted.discard(item_id)

    def remove(self, item_id: str) -> None:
        """Note that the tenant deleted it."""
        self.owned.remove(item_id)
        self.deleted.add(item_id)


@dataclass
class Tenant:
    """A tenant in the model."""

    name: str
    http: httpx.Client
    memories: Holdings = field(default_factory=Holdings)
    jobs: Holdings = field(default_factory=Holdings)
    blobs: dict[str, bytes] = field(default_factory=dict)
    "Exported blobs by the ids of their memories."
    written: dict[str, str] = field(default_factory=dict)
    "Memories by the idempotency keys of their WRITEs."
