"""Folders that are written as a whole or not at all."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a scratch folder to fill, and move it to `folder` afterwards.

    Args:
        folder: Place of the result; an older folder stays there until the new one is complete.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=_prefix(folder)) as scratch:
        new = Path(scratch) / folder.name
        new.mkdir()
        yield new
        for path in new.rglob("*.safetensors"):
            path.chmod(0o644)  # safetensors makes its files private; a container's user reads them
        if folder.exists():
            folder.rename(Path(scratch) / "replaced")
        new.rename(folder)


def remove_scratch(folder: Path) -> None:
    """Remove scratch folders of killed processes; no process may be in `atomic_folder` now."""
    for scratch in folder.parent.glob(f"{_prefix(folder)}*"):
        shutil.rmtree(scratch, ignore_errors=True)


def _prefix(folder: Path) -> str:
    return f".{folder.name}-"
