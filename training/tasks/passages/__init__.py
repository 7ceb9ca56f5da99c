"""Passages: texts in pieces with questions, from which the task `prose` takes its windows.

To add a generated source, copy `invented` or `structured` and list its class in SOURCES. Folders of
question-answering data need no code (see `squad`).
"""

from collections.abc import Callable
from pathlib import Path

from gradmem_core.errors import RecipeError
from training.tasks.passages.base import Passage, PassageQuestion, PassageSource
from training.tasks.passages.invented import InventedPassages
from training.tasks.passages.squad import SquadPassages
from training.tasks.passages.structured import StructuredPassages

__all__ = ["SOURCES", "Passage", "PassageQuestion", "PassageSource", "build_source"]

SOURCES: dict[str, Callable[[], PassageSource]] = {
    source.name: source for source in (StructuredPassages, InventedPassages)
}
"Generated sources by name."


def build_source(name: str, data: Path | None) -> PassageSource:
    """Build a generated source, or the source of a folder in `data`.

    Raises:
        RecipeError: There is no such source, or it needs data and none is given.
    """
    if name in SOURCES:
        return SOURCES[name]()
    if data is None:
        raise RecipeError(
            f"mixture.sources: {name!r} is a folder of files, since it is not generated"
            f" ({', '.join(SOURCES)} are); say where it is (data, or --data PATH)"
        )
    if not (data / name).is_dir():
        raise RecipeError(f"mixture.sources: {data} has no folder {name!r}")
    return SquadPassages(data / name)
