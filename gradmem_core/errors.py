"""The errors that GradMem raises on purpose.

    GradMemError
    ├── InputError                    the caller sent something that cannot be used
    │   ├── EmptyContextError         a document without tokens
    │   ├── ContextTooLongError       a document beyond the checkpoint's limit
    │   ├── NoRecordError             a list without records
    │   ├── RecordTooLongError        a key or a value beyond the checkpoint's limit
    │   ├── BinaryTextError           a document with control characters
    │   ├── WordTooLongError          a word that does not fit on a page
    │   ├── TooManyPagesError         a document or a memory with more pages than allowed
    │   ├── EmptyQueryError           a query without tokens
    │   ├── QueryTooLongError         a query beyond the checkpoint's limit
    │   ├── UnknownCharactersError    characters outside the tokenizer's vocabulary
    │   ├── WriteStepsError           K below 1 or above the limit
    │   ├── GenerationError           sampling settings out of range
    │   ├── RecipeError               a training recipe that cannot run
    │   └── DataError                 a data file that is missing or malformed
    ├── NonFiniteLossError            WRITE diverged
    ├── NotFoundError
    │   ├── ModelNotFoundError        no checkpoint of that name is served
    │   ├── MemoryNotFoundError       no memory has that id, or it has expired
    │   └── PageNotFoundError         the memory has no page of that id
    ├── FingerprintMismatchError      a memory of another checkpoint
    ├── MemoryChangedError            concurrent changes of a memory kept this one from being stored
    ├── CheckpointError               a checkpoint folder that cannot be loaded
    ├── EncryptionKeyError            a key for memories at rest that is malformed or missing
    ├── BlobError                     bytes that are not a memory, or a memory that cannot be packed
    ├── QuotaError                    a tenant has as much in the store as it may have
    ├── StoreUnavailableError         the store cannot be reached or refuses the operation
    │   └── StoreFullError            the store has no room: its memory or its disk is full
    ├── NotReadyError                 a part of the service does not work now
    └── EngineError
        ├── OverloadedError           the queue is full
        ├── DeadlineError             the request's time ran out before its work was done
        ├── OutOfMemoryError          the batch does not fit into the device's memory
        ├── DeviceError               the batch failed on the device
        ├── DeviceLostError           the device cannot be used until the process restarts
        └── EngineStoppedError        the engine is shutting down

A message says what was wrong, which limit was hit, and what to do. It never holds the text of a
document or a query.
"""

import copyreg
from typing import Any


class GradMemError(Exception):
    """Base of the tree.

    Args:
        message: Cause of the error, and what to do about it.
        limit: Limit that was hit, in the unit that the message names; None if no limit was hit.
    """

    def __init__(self, message: str, *, limit: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.limit = limit

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy without `__init__`, whose keywords are not among `args`: errors cross processes."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class InputError(GradMemError):
    """The caller sent something that cannot be used."""


class EmptyContextError(InputError):
    """A document has no tokens."""


class ContextTooLongError(InputError):
    """A document has more tokens than the checkpoint was trained for."""


class NoRecordError(InputError):
    """A list of records has no records."""


class RecordTooLongError(InputError):
    """A key or a value has more tokens than the checkpoint was trained for."""


class BinaryTextError(InputError):
    """A document has control characters, so that it is not plain text.

    Args:
        message: See the base class; it names the first control characters and their positions.
        positions: Offsets of the first control characters in the document, counted from 0.
    """

    def __init__(self, message: str, *, positions: list[int]) -> None:
        super().__init__(message)
        self.positions = positions


class WordTooLongError(InputError):
    """A word of a document has more tokens than a page."""


class TooManyPagesError(InputError):
    """A document or a memory would have more pages than allowed."""


class EmptyQueryError(InputError):
    """A query has no tokens."""


class QueryTooLongError(InputError):
    """A query has more tokens than the checkpoint was trained for."""


class UnknownCharactersError(InputError):
    """A text has characters outside the tokenizer's vocabulary.

    Args:
        message: See the base class; it names the first unknown characters and their positions.
        positions: Offsets of the first unknown characters in the text, counted from 0.
    """

    MAX_NAMED = 5
    "Most characters that a message names."

    def __init__(self, message: str, *, positions: list[int]) -> None:
        super().__init__(message)
        self.positions = positions

    @classmethod
    def at_positions(cls, text: str, positions: list[int], fault: str) -> "UnknownCharactersError":
        """Build the error for a text.

        Args:
            text: The text.
            positions: Offsets of all its unknown characters, counted from 0.
            fault: Why they are refused, for instance `not printable ASCII`.
        """
        named = positions[: cls.MAX_NAMED]
        characters = ", ".join(f"{text[position]!r} at {position}" for position in named)
        count = "1 character is" if len(positions) == 1 else f"{len(positions)} characters are"
        more = ", ..." if len(positions) > len(named) else ""
        return cls(
            f"{count} {fault}: {characters}{more} (positions from 0); remove or replace them",
            positions=named,
        )


class WriteStepsError(InputError):
    """The number of write steps is below 1 or above the limit."""


class GenerationError(InputError):
    """A sampling setting is out of range."""


class RecipeError(InputError):
    """A training recipe has a wrong field or a combination that cannot run."""


class DataError(InputError):
    """A data file of training or evaluation is missing or malformed."""


class NonFiniteLossError(GradMemError):
    """A WRITE loss became infinite or NaN.

    Args:
        message: See the base class.
        samples: Batch indices of the samples that diverged.
    """

    def __init__(self, message: str, *, samples: list[int]) -> None:
        super().__init__(message)
        self.samples = samples


class NotFoundError(GradMemError):
    """No object has the requested name or id."""


class ModelNotFoundError(NotFoundError):
    """No checkpoint of that name is served."""


class MemoryNotFoundError(NotFoundError):
    """No memory has that id, or it has expired."""


class PageNotFoundError(NotFoundError):
    """The memory has no page of that id."""


class MemoryChangedError(GradMemError):
    """Concurrent changes of a memory kept a change from being stored."""


class FingerprintMismatchError(GradMemError):
    """A memory was written by another checkpoint than the one asked to read it.

    Args:
        message: See the base class; it names both fingerprints.
        expected: Fingerprint of the checkpoint asked to read.
        actual: Fingerprint in the blob.
    """

    def __init__(self, message: str, *, expected: str, actual: str) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual


class CheckpointError(GradMemError):
    """A checkpoint folder is missing, damaged, or has an unsupported format."""


class EncryptionKeyError(GradMemError):
    """A key with which memories are encrypted in the store is malformed or missing."""


class BlobError(GradMemError):
    """Bytes are not a memory blob, or a memory cannot be packed in the requested format."""


class StoreUnavailableError(GradMemError):
    """The store cannot be reached or refused the operation."""


class StoreFullError(StoreUnavailableError):
    """The store has no room for the memory."""


class QuotaError(GradMemError):
    """A tenant has as much in the store as it may have."""


class NotReadyError(GradMemError):
    """A part of the service does not work now; the message names it."""


class EngineError(GradMemError):
    """The engine could not process a valid request."""


class OverloadedError(EngineError):
    """The engine's queue is full.

    Args:
        message: See the base class.
        limit: See the base class.
        retry_after: Seconds until the request would be taken on, if no others came meanwhile.
    """

    def __init__(self, message: str, *, limit: int | None = None, retry_after: int = 1) -> None:
        super().__init__(message, limit=limit)
        self.retry_after = retry_after


class DeadlineError(EngineError):
    """A request's time ran out before its work was done."""


class OutOfMemoryError(EngineError):
    """A batch does not fit into the device's memory."""


class DeviceError(EngineError):
    """A batch failed on the device."""


class DeviceLostError(EngineError):
    """The device cannot be used until the process restarts."""


class EngineStoppedError(EngineError):
    """The engine is shutting down."""
