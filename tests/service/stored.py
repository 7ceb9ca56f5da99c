"""Memories for the tests of the stores."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from service.stores import StoredMemory, new_memory_id

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
SECRET = b"a memory nobody else may read " * 50


def a_memory(blob: bytes = b"\x00\xffblob", **fields: object) -> StoredMemory:
    given_fields = {"memory_id": new_memory_id(), "metadata": {"title": "größer 東京 🗝"}} | fields
    return StoredMemory(model="kv-16", blob=blob, created_at=NOW, **given_fields)  # type: ignore[arg-type]


def soon(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def fill(folder: Path) -> None:
    """Leave no byte of a disk to others."""
    with (folder / "filler").open("wb", buffering=0) as filler:
        for size in (2**20, 2**12, 1):
            with suppress(OSError):
                while filler.write(bytes(size)):
                    pass
