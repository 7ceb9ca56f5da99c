"""Log errors without their text, which may hold a document."""

import logging
import traceback


def log_failure(logger: logging.Logger, what: str, error: BaseException) -> None:
    """Log what failed, the class of the error and where in the code it arose, not its text."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s failed with %s\n%s", what, type(error).__name__, frames)
