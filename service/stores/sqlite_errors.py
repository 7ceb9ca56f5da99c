"""Causes of SQLite's errors, in words for people."""

import errno
import sqlite3
from collections.abc import Mapping

from gradmem_core.errors import StoreFullError, StoreUnavailableError

FOREIGN_ERRORS = (sqlite3.Error, sqlite3.Warning, OSError)

FULL = "cannot grow: its disk is full; free space there (memories can be read and deleted)"
FULL_CODES = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}
FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT}
NOT_OPENED = "cannot be opened: check that it is a file, its permissions and those of its folder"
READ_ONLY = "cannot be written: it or its disk is read-only for this user"
CAUSES: Mapping[int, str] = {
    sqlite3.SQLITE_BUSY: "is locked: another process writes to it; try again",
    sqlite3.SQLITE_LOCKED: "is locked: another process writes to it; try again",
    sqlite3.SQLITE_NOTADB: "is not a SQLite database; name another file",
    sqlite3.SQLITE_CORRUPT: "is damaged; restore a backup, or run `sqlite3 FILE .recover`",
    sqlite3.SQLITE_READONLY: READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: NOT_OPENED,
    sqlite3.SQLITE_PERM: NOT_OPENED,
    sqlite3.SQLITE_AUTH: NOT_OPENED,
    sqlite3.SQLITE_IOERR: "cannot be read or written: its disk reports an error",
}
"Causes by SQLite's primary result code."
OS_CAUSES: Mapping[int, str] = {
    errno.ENOENT: "cannot be created: its folder does not exist; create the folder",
    errno.ENOTDIR: "cannot be created: its folder is a file; name another folder",
    errno.EACCES: NOT_OPENED,
    errno.EPERM: NOT_OPENED,
    errno.EISDIR: NOT_OPENED,
    errno.EROFS: READ_ONLY,
}
"Causes by the system's error number."
UNKNOWN = "refused the operation; try again, and ask the operator if it persists"


def explain(error: Exception) -> StoreUnavailableError:
    """Return the error that says what is wrong with the file; it does not name the file."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    number = error.errno if isinstance(error, OSError) else None
    if code & 0xFF in FULL_CODES or code in FULL_CODES or number in FULL_ERRNOS:
        return StoreFullError(f"the SQLite file {FULL}")
    cause = CAUSES.get(code & 0xFF) or OS_CAUSES.get(number or 0, UNKNOWN)
    return StoreUnavailableError(f"the SQLite file {cause}")
