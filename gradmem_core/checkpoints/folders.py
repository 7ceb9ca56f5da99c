"""Folders that are there as a whole or not at all."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Give a scratch folder to fill, and put it in `folder`'s place when that is done.

    Args:
        folder: Where the result goes; what is there stays until the new one is whole.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=_prefix(folder)) as scratch:
        made = Path(scratch) / folder.name
        made.mkdir()
        yield made
        for path in made.rglob("*.safetensors"):
            path.chmod(0o644)  # safetensors keeps its files private; a container's user reads them
        if folder.exists():
            folder.rename(Path(scratch) / "replaced")
        made.rename(folder)


def remove_scratch(folder: Path) -> None:
    """Remove what killed processes left of `atomic_folder`; nobody may be filling one meanwhile."""
    for scratch in folder.parent.glob(f"{_prefix(folder)}*"):
        shutil.rmtree(scratch, ignore_errors=True)


def _prefix(folder: Path) -> str:
    return f".{folder.name}-"
