"""Keep what was used lately, within a number of bytes."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class RecentlyUsed(Generic[K, V]):
    """Values by their keys; where they are too large, the least recently used leave first.

    For one thread.

    Args:
        max_bytes: Most bytes of all values.
        size: Returns the bytes of a value.
    """

    def __init__(self, max_bytes: int, size: Callable[[V], int]) -> None:
        self._max_bytes = max_bytes
        self._size = size
        self._values: OrderedDict[K, V] = OrderedDict()
        self.bytes = 0
        "Bytes of all values."

    def get(self, key: K) -> V | None:
        """Return the value of a key, which is then the one used last; None if there is none."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: K, value: V) -> None:
        """Keep a value, as the one used last, unless it alone is too large."""
        self.remove(key)
        size = self._size(value)
        if size > self._max_bytes:
            return
        self._values[key] = value
        self.bytes += size
        while self.bytes > self._max_bytes:
            self.remove(next(iter(self._values)))

    def remove(self, key: K) -> None:
        """Drop the value of a key, if there is one."""
        if key in self._values:
            self.bytes -= self._size(self._values.pop(key))

    def __iter__(self) -> Iterator[K]:
        return iter(self._values)
