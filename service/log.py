"""What the service logs of an error that it did not expect."""

import traceback


def place_of(error: BaseException) -> str:
    """Where in the code an error arose: its own text may hold a document, its place does not."""
    return "".join(traceback.format_tb(error.__traceback__))
