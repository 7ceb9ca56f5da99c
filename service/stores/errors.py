"""The errors of every store of memories."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from gradmem_core.errors import MemoryNotFoundError, StoreUnavailableError
from service.stores.heads import MEMORY_ID, MemoryHead


class MemoryExistsError(ValueError):
    """The id of a new memory is taken; that memory stays as it was."""


@contextmanager
def translate_errors(
    foreign: tuple[type[Exception], ...], explain: Callable[[Exception], StoreUnavailableError]
) -> Iterator[None]:
    """Turn a library's errors into errors that say what is wrong with the store.

    The library's own words stay out: they may hold paths, addresses or user names. The log gets the
    class of the cause.

    Args:
        foreign: Errors of the library.
        explain: Returns the error that explains one of them.
    """
    try:
        yield
    except foreign as exc:
        raise explain(exc) from exc


def not_open(store: str) -> StoreUnavailableError:
    """Return the error for an operation on a store that is not open."""
    return StoreUnavailableError(f"the {store} store is not open")


def not_found() -> MemoryNotFoundError:
    """Return the error for an id without a memory; it does not repeat the id, which is a secret."""
    return MemoryNotFoundError("no memory has this id, or it has expired")


def refuse_expired(memory: MemoryHead) -> None:
    """Refuse a memory that has expired by its own record, whatever the store made of it.

    Raises:
        MemoryNotFoundError: It has expired.
    """
    if not memory.lives_at(datetime.now(UTC)):
        raise not_found()


def check_memory_id(memory_id: str) -> None:
    """Refuse an id that no memory can have, before it reaches a store.

    Raises:
        MemoryNotFoundError: The text is not a valid id.
    """
    if not MEMORY_ID.fullmatch(memory_id):
        raise not_found()
