"""The options of calls; leaving one out and None are the same, except in `PatchOptions`."""

from datetime import datetime
from typing import Literal, Required, TypedDict


class PageOptions(TypedDict, total=False):
    """Options of writing a page of a memory again."""

    steps: int | Literal["auto"] | None
    """Gradient steps (K), or `auto` for as many as reduce the loss; the checkpoint's own number by
    default."""
    timeout: float | None
    "Seconds after which the service gives up; it has a limit of its own."
    verify: bool | None
    "Read the memory back, and write pages that come back poorly again, in halves; on by default."


class DocumentOptions(PageOptions, total=False):
    """Options of writing a document into a memory of its own."""

    model: str | None
    "Name of the checkpoint that writes; the service's first by default."
    ttl_seconds: int | None
    "Seconds until the memory is deleted; never by default."
    name: str | None
    "Name for people and for lists; several memories may have the same."
    metadata: dict[str, str] | None
    "Names and values of your own, returned with the memory."


class RepeatOptions(TypedDict, total=False):
    """Options of calls that may be repeated from another process."""

    idempotency_key: str | None
    """Text of 1 to 255 visible ASCII characters. Within a day, the same call with the same key is
    done once, and answered with the same memories. The client makes a key for each call; give your
    own to repeat a call from another process."""


class AppendOptions(PageOptions, RepeatOptions, total=False):
    """Options of adding a document to a memory."""


class WriteOptions(DocumentOptions, RepeatOptions, total=False):
    """Options of a WRITE."""


class BatchDocument(DocumentOptions, total=False):
    """A document of a batch, with options of its own."""

    document: Required[str]
    "The text."


class SamplingOptions(TypedDict, total=False):
    """Options of a READ."""

    max_new_tokens: int | None
    "Most tokens of an answer; the checkpoint's limit by default."
    temperature: float | None
    "0, the default, takes the likeliest token; above 0, tokens are drawn."
    top_p: float | None
    "Share of the probability mass from which tokens are drawn; all of it by default."
    seed: int | None
    "Seed of the draws, 0 by default."
    min_confidence: float | None
    """Answers with less confidence, 0 to 1, count as not found; the checkpoint's own threshold by
    default."""
    timeout: float | None
    "Seconds after which the service gives up; it has a limit of its own."


class PatchOptions(TypedDict, total=False):
    """Changes of a memory; what is left out stays as it is."""

    name: str | None
    "The new name; None for none."
    metadata: dict[str, str | None] | None
    "Entries to set; a value of None removes its entry, and None in place of the dict all."
    ttl_seconds: int | None
    "Seconds from now until the memory is deleted; None for never."


class FilterOptions(TypedDict, total=False):
    """Conditions on memories, all of which have to hold."""

    name: str | None
    "The memory has this name."
    model: str | None
    "This checkpoint wrote it."
    metadata: dict[str, str] | None
    "It has these entries."
    expires_before: datetime | None
    "It expires before this time, which has a time zone."
