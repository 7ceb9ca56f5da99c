"""The policy of sending a call again: only what is safe, not often, and not at once.

- A call that the service refused before it did anything (429) is always safe to repeat, as is one
  that never left this machine because no connection could be made.
- So is a WRITE after a 409 with `Retry-After`: another request with its key is still at work.
- After a lost connection, 502 or 503, only calls are repeated that do the same when they are sent
  twice: reading, deleting, and WRITE, whose idempotency key makes it so.
- A response that did not come in time is not awaited a second time.

The pause is what `Retry-After` says, and otherwise grows from retry to retry. A random part is
added, or all clients that were refused together would come back together (M. Brooker, "Exponential
Backoff And Jitter", AWS Architecture Blog, 2015).
"""

import random
from typing import Any

import httpx

from service.client.calls import Call
from service.client.errors import (
    ClientError,
    Conflict,
    ConnectionFailed,
    Overloaded,
    ProblemError,
    UnexpectedResponse,
)

MAX_RETRIES = 2
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 60.0
"Longest pause; where `Retry-After` asks for more, the call fails at once."
JITTER = 0.25
"Largest part that is added to a pause."
UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
LOST = (httpx.NetworkError, httpx.RemoteProtocolError)

_random = random.SystemRandom()


class Attempts:
    """The attempts at one call.

    Args:
        call: The call.
        max_retries: Most attempts after the first.
    """

    def __init__(self, call: Call[Any], max_retries: int) -> None:
        self._call = call
        self._left = max_retries
        self._pause = FIRST_PAUSE_SECONDS
        self._lost = False

    def accept(self, response: httpx.Response) -> bool:
        """Return True for a success.

        A memory that is not there is one where an earlier attempt to delete it had no response.
        """
        deleted = self._lost and self._call.method == "DELETE" and response.status_code == 404
        return response.is_success or deleted

    def pause_after(self, error: ClientError) -> float:
        """Return the seconds to wait before the next attempt.

        Raises:
            ClientError: The error itself, where there should be no other attempt.
        """
        asked = error.retry_after if isinstance(error, ProblemError) else None
        if self._left < 1 or not self._is_repeatable(error) or (asked or 0) > LONGEST_PAUSE_SECONDS:
            raise error
        self._left -= 1
        self._lost |= _may_have_been_done(error)
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        return (pause if asked is None else asked) * (1 + JITTER * _random.random())

    def _is_repeatable(self, error: ClientError) -> bool:
        match error:
            case ConnectionFailed(__cause__=cause):
                return isinstance(cause, UNSENT) or (
                    self._call.repeatable and isinstance(cause, LOST)
                )
            case Overloaded():
                return True
            case Conflict():
                return error.retry_after is not None  # the same key is still being written
            case ProblemError(status=503) | UnexpectedResponse(status=502 | 503):
                return self._call.repeatable
            case _:
                return False


def _may_have_been_done(error: ClientError) -> bool:
    """Return True where the service may have done what it was asked, its response being lost."""
    sent = not isinstance(error.__cause__, UNSENT)
    return sent and isinstance(error, ConnectionFailed | UnexpectedResponse)
