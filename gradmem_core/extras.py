"""The extras of the distribution: libraries that its programs need and its client does not."""

from collections.abc import Iterator
from contextlib import contextmanager

INSTALL = "run in the checkout: pip install '.[{extra}]'"
"The remedy where an extra is not installed."
ROOMS = ("gradmem_core", "service", "training", "benchmarks")


@contextmanager
def requires_extra(extra: str) -> Iterator[None]:
    """End the program where the imports of the body need an extra that is not installed.

    Args:
        extra: An extra of pyproject.toml.

    Raises:
        SystemExit: In place of ModuleNotFoundError, with the command that installs the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library in ROOMS:  # a mistake of ours
            raise
        raise SystemExit(
            f"error: {library} is not installed; {INSTALL.format(extra=extra)}"
        ) from error
