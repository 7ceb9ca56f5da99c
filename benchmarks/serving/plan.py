"""What to measure, and how long."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Section = Literal["write", "read", "context", "device", "overload", "growth"]
SECTIONS: tuple[Section, ...] = get_args(Section)
LOADED: frozenset[Section] = frozenset({"write", "read", "overload", "growth"})
"Sections that need a running service."


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    checkpoint: str
    "A folder or a bundled name."
    url: str | None
    "Service to measure; one that is started for it when None."
    sections: Sequence[Section]
    "Which sections."
    seconds: float
    "Length of one load measurement."
    overload_seconds: float
    "How long the overload lasts."
    requests: int
    "Requests of the growth measurement."
    runs: int
    "How often each is measured; what is compared alternates within a run."
    seed: int
    "Seed of the documents and of the times at which they come."
