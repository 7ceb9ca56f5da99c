"""Fair shares of the device for the clients that want it."""

import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Generic, TypeVar

MOST_ABSENT = 256
"Most clients without work whose lead over the others is remembered."

Item = TypeVar("Item")


class FairShares(Generic[Item]):
    """Orders work so that every client gets as much of the device as the others that want it.

    The client that has had least comes first, and the work of one client keeps its order. A client
    that comes back after a pause starts where those are who stayed: nobody saves up turns.

    Args:
        share_of: Returns the client that work is for.
        cost_of: Returns what its next turn takes, in any unit.
    """

    def __init__(self, share_of: Callable[[Item], str], cost_of: Callable[[Item], int]) -> None:
        self._share_of = share_of
        self._cost_of = cost_of
        self._had: dict[str, int] = {}
        self._least = 0
        "The cost of all turns that the last client to have one had had before."

    def order(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield waiting work, whose turn it is first, as if each had its turn when it is yielded.

        Args:
            items: All work that waits, in the order of its arrival.
        """
        queues: dict[str, deque[Item]] = {}
        for item in items:
            queues.setdefault(self._share_of(item), deque()).append(item)
        self._enter(queues)
        # (had, order of arrival, client): of two that had the same, who came first
        heap = [(self._had[share], place, share) for place, share in enumerate(queues)]
        heapq.heapify(heap)
        while heap:
            had, place, share = heapq.heappop(heap)
            item = queues[share].popleft()
            if queues[share]:
                heapq.heappush(heap, (had + self._cost_of(item), place, share))
            yield item

    def charge(self, items: Iterable[Item]) -> None:
        """Count turns that work has had."""
        for item in items:
            self._had[self._share_of(item)] += self._cost_of(item)

    def _enter(self, waiting: Collection[str]) -> None:
        # One that left ahead of the others is not forgotten before they have caught up, unless many
        # have left since: where each comes once, the others never do.
        ahead = {share: had for share, had in self._had.items() if had > self._least}
        absent = [share for share in ahead if share not in waiting][-MOST_ABSENT:]
        # Those with work come last, so that the first to be forgotten is who left first.
        self._had = {share: ahead.get(share, self._least) for share in (*absent, *waiting)}
        self._least = min((self._had[share] for share in waiting), default=self._least)
