"""Log lines for people and programs, which hold no text of a document, a query or an answer.

The text of an error may hold one, so only its class and the places in the code are logged; that
goes for errors that a library logs, too.
"""

import asyncio
import json
import logging
import sys
import threading
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from service.correlation import current_request
from service.settings import LogFormat

AUDIT = "gradmem.audit"
"Name of the logger of administrative acts."
FIELDS = "fields"
"Attribute of a record with what a JSON line has beside its message: `extra={FIELDS: {...}}`."

logger = logging.getLogger("gradmem")


def configure_logging(level: str, form: LogFormat = "text") -> None:
    """Log to standard error, one line per event; acts of administration always as JSON.

    Args:
        level: Lowest severity that is logged.
        form: Form of the lines.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)
    configure_audit()
    threading.excepthook = lambda failure: _log_stray("a thread", failure.exc_value)
    sys.unraisablehook = lambda failure: _log_stray("a destructor", failure.exc_value)


def configure_audit() -> None:
    """Log acts of administration to standard error, whatever the level of the rest."""
    audit_logger = logging.getLogger(AUDIT)
    audit_logger.setLevel(logging.INFO)
    audit_logger.propagate = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    audit_logger.handlers = [handler]


class TextFormatter(logging.Formatter):
    """Lines for people; those of a request end with its id."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the line of a record."""
        line = super().formatMessage(record)
        request = current_request()
        return line if request is None else f"{line} [{request.request_id}]"

    def formatException(self, ei: Any) -> str:  # noqa: ANN401, N802
        """Return the class of an error and where it arose."""
        return _describe(ei[1])


class JsonFormatter(logging.Formatter):
    """An object a line: time, level, logger and message, the ids of the request, and fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        request = current_request()
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **({} if request is None else request.ids),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = _describe(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False)


def log_failure(logger: logging.Logger, what: str, error: BaseException) -> None:
    """Log what failed, the class of the error and where in the code it arose, not its text."""
    logger.error("%s failed with %s", what, _describe(error))


def log_loop_failure(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what failed outside of any request; asyncio would log it with its text."""
    _log_stray("a task", context.get("exception"))


def _log_stray(what: str, error: BaseException | None) -> None:
    if error is None:
        logger.error("%s failed", what)
    else:
        log_failure(logger, what, error)


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}\n{_format_frames(error.__traceback__)}".rstrip()


def _format_frames(trace: TracebackType | None) -> str:
    return "".join(traceback.format_tb(trace))
