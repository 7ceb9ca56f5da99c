"""Every error that GradMem raises on purpose.

    GradMemError
    ├── InputError                    what a caller sent cannot be used
    │   ├── EmptyContextError         a document without a token
    │   ├── ContextTooLongError       a document beyond the checkpoint's limit
    │   ├── NoRecordError             a list without a record
    │   ├── RecordTooLongError        a key or a value beyond the checkpoint's limit
    │   ├── BinaryTextError           a document with control characters
    │   ├── WordTooLongError          a word that no page has room for
    │   ├── TooManyPagesError         a document or a memory of more pages than allowed
    │   ├── EmptyQueryError           a query without a token
    │   ├── QueryTooLongError         a query beyond the checkpoint's limit
    │   ├── UnknownCharactersError    characters that the tokenizer does not know
    │   ├── WriteStepsError           K below 1 or above the limit
    │   ├── GenerationError           sampling settings out of range
    │   ├── RecipeError               a training recipe that cannot run
    │   └── DataError                 a data file that is missing or malformed
    ├── NonFiniteLossError            WRITE diverged
    ├── NotFoundError
    │   ├── ModelNotFoundError        no checkpoint of that name is served
    │   ├── MemoryNotFoundError       no memory of that id, or it has expired
    │   └── PageNotFoundError         the memory has no page of that id
    ├── FingerprintMismatchError      a memory of another checkpoint
    ├── MemoryChangedError            others changed the memory at the same time, again and again
    ├── CheckpointError               a checkpoint folder that cannot be loaded
    ├── BlobError                     bytes that are not a memory, or a memory that does not fit
    ├── StoreUnavailableError         the store cannot be reached or refuses
    └── EngineError
        ├── OverloadedError           no room in the queue
        ├── DeadlineError             a request's time was over before its work was done
        ├── OutOfMemoryError          the device has no room for the batch
        ├── DeviceError               the batch failed on the device
        ├── DeviceLostError           the device is of no more use to this process
        └── EngineStoppedError        the engine is shutting down

A message says what was wrong, which limit was hit, and what to do. It never holds the text of a
document or a query.
"""


class GradMemError(Exception):
    """Base of the tree.

    Args:
        message: What was wrong and what to do about it.
        limit: The limit that was hit, in the unit the message names; None where there is none.
    """

    def __init__(self, message: str, *, limit: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.limit = limit


class InputError(GradMemError):
    """What a caller sent cannot be used."""


class EmptyContextError(InputError):
    """A document has no token."""


class ContextTooLongError(InputError):
    """A document has more tokens than the checkpoint was trained for."""


class NoRecordError(InputError):
    """A document that should be a list of records has none."""


class RecordTooLongError(InputError):
    """A key or a value has more tokens than the checkpoint was trained for."""


class BinaryTextError(InputError):
    """A document holds control characters, which no plain text has.

    Args:
        message: See the base class; it says where the first ones stand.
        positions: Offsets of the first ones in the document, counted from 0.
    """

    def __init__(self, message: str, *, positions: list[int]) -> None:
        super().__init__(message)
        self.positions = positions


class WordTooLongError(InputError):
    """A document has a word of more tokens than a page takes."""


class TooManyPagesError(InputError):
    """A document or a memory would have more pages than are allowed."""


class EmptyQueryError(InputError):
    """A query has no token."""


class QueryTooLongError(InputError):
    """A query has more tokens than the checkpoint was trained for."""


class UnknownCharactersError(InputError):
    """A text holds characters that the tokenizer does not know.

    Args:
        message: See the base class; it names the first characters and where they stand.
        positions: Offsets of the first unknown characters in the text, counted from 0.
    """

    NAMED = 5
    "Most characters that a message names."

    def __init__(self, message: str, *, positions: list[int]) -> None:
        super().__init__(message)
        self.positions = positions

    @classmethod
    def at_places(cls, text: str, places: list[int], fault: str) -> "UnknownCharactersError":
        """The error for a text.

        Args:
            text: What was sent.
            places: Offsets of all its unknown characters.
            fault: What they are, for instance `not printable ASCII`.
        """
        first = places[: cls.NAMED]
        named = ", ".join(f"{text[place]!r} at {place}" for place in first)
        return cls(
            f"{len(places)} characters are {fault}, the first (positions from 0): {named}; remove"
            " or replace them",
            positions=first,
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
    """Something was asked for by a name that nothing has."""


class ModelNotFoundError(NotFoundError):
    """No checkpoint of that name is served."""


class MemoryNotFoundError(NotFoundError):
    """No memory has that id, or it has expired."""


class PageNotFoundError(NotFoundError):
    """The memory has no page of that id."""


class MemoryChangedError(GradMemError):
    """Others changed a memory each time that this change was about to be stored."""


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
    """A checkpoint folder is missing, damaged, or of another format."""


class BlobError(GradMemError):
    """Bytes are not a memory blob, or a memory does not fit the format asked for."""


class StoreUnavailableError(GradMemError):
    """The store cannot be reached, or refused the operation."""


class EngineError(GradMemError):
    """The engine could not do the work; the request itself was fine."""


class OverloadedError(EngineError):
    """The engine's queue has no room for the request."""


class DeadlineError(EngineError):
    """A request's time was over before its work was done."""


class OutOfMemoryError(EngineError):
    """The device has no room for the batch."""


class DeviceError(EngineError):
    """The device failed while it worked on the batch."""


class DeviceLostError(EngineError):
    """The device is of no more use to this process."""


class EngineStoppedError(EngineError):
    """The engine is shutting down."""
