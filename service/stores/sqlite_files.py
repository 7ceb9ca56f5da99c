"""The files of a SQLite store: private, still linked, and a reserve for a full disk."""

import logging
import os
from pathlib import Path

from gradmem_core.errors import StoreUnavailableError

RESERVE_BYTES = 2**23
"""Size of the reserve. Deleting a memory takes about its size in the write-ahead log, and a memory
of 64 pages of `prose` takes 1 MB as int8 and 5 MB as float32."""

logger = logging.getLogger(__name__)


class SqliteFiles:
    """A database with its write-ahead log (`-wal`) and its reserve (`-reserve`).

    A deletion is written to the log before the space in the database is free, so a full disk would
    refuse it. The reserve is space that was taken beforehand, to be given up then.

    Args:
        path: The database.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._log = path.with_name(path.name + "-wal")
        self._reserve = path.with_name(path.name + "-reserve")
        self._opened: list[tuple[int, int]] = []

    def create(self) -> None:
        """Create the database where it is missing, and close it to everyone but its owner."""
        self.path.touch(mode=0o600)  # SQLite gives its side files the mode of the main one
        if self.path.stat().st_mode & 0o077:
            self.path.chmod(0o600)

    def remember(self) -> None:
        """Remember which files are open now, for `check_linked`."""
        self._opened = self._identities()

    def check_linked(self) -> None:
        """Refuse to go on with files that others have removed or replaced.

        SQLite keeps writing to such files, and nobody finds the memories after a restart.

        Raises:
            StoreUnavailableError: They are not the files that were opened.
        """
        try:
            same = self._identities() == self._opened
        except OSError:
            same = False
        if not same:
            raise StoreUnavailableError(
                "the SQLite file was removed or replaced while the service was running; put it back"
                " and restart the service"
            )

    def take_reserve(self) -> None:
        """Take the reserve, or what was given up of it; on a full disk do without."""
        if not hasattr(os, "posix_fallocate"):
            return
        try:
            descriptor = os.open(self._reserve, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                if os.fstat(descriptor).st_size < RESERVE_BYTES:
                    os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            finally:
                os.close(descriptor)
        except OSError:
            logger.warning("the disk is too full for the reserve that deleting may need")

    def give_up_reserve(self) -> None:
        """Give up the reserve, so that a full disk has room for a deletion."""
        self._reserve.unlink(missing_ok=True)

    def _identities(self) -> list[tuple[int, int]]:
        found = [path.stat() for path in (self.path, self._log)]
        return [(status.st_dev, status.st_ino) for status in found]
