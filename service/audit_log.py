"""The record of administrative acts: who did what to which memory or key, and when."""

import hashlib
import logging
from typing import Literal, TypeAlias

from service.correlation import current_request
from service.log import AUDIT, FIELDS

Act: TypeAlias = Literal[
    "job.cancel",
    "job.delete",
    "memory.append",
    "memory.delete",
    "memory.delete_page",
    "memory.import",
    "memory.patch",
    "memory.replace_page",
    "store.copy",
    "store.purge",
    "key.create",
    "key.revoke",
]

logger = logging.getLogger(AUDIT)


def audit(act: Act, *, memory_id: str | None = None, **details: str | int | None) -> None:
    """Record an act once it is done, with the request that it was done for.

    Args:
        act: The act.
        memory_id: The memory that it changed. Whoever knows an id can use the memory, so the record
            holds a digest (see `memory_digest`).
        details: What else identifies its object, such as `key_id`; never a secret or a text.
    """
    request = current_request()
    fields: dict[str, object] = {"act": act}
    if request is not None:
        fields |= {"tenant": request.tenant, "by_key": request.key_id}
    if memory_id is not None:
        fields["memory"] = memory_digest(memory_id)
    fields |= details
    present = {name: value for name, value in fields.items() if value is not None}
    logger.info("%s", act, extra={FIELDS: present})


def memory_digest(memory_id: str) -> str:
    """Return what stands for a memory in the record: the start of the SHA-256 of its id."""
    return hashlib.sha256(memory_id.encode()).hexdigest()[:16]
