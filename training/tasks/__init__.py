"""Tasks: sources of contexts, queries and answers."""

from collections.abc import Iterable
from pathlib import Path

from gradmem_core.checkpoint import Task
from gradmem_core.errors import RecipeError
from training.tasks.babi import BabiTask
from training.tasks.base import Example, Question, TextFormat, TrainingTask
from training.tasks.kv import KeyValueTask
from training.tasks.prose import ProseTask
from training.tasks.records import RecordsTask
from training.tasks.squad import SquadTask

__all__ = [
    "BabiTask",
    "Example",
    "KeyValueTask",
    "Question",
    "RecordsTask",
    "TextFormat",
    "TrainingTask",
    "card_by_name",
    "task_by_name",
]

GENERATED: dict[str, type[TrainingTask]] = {task.name: task for task in (KeyValueTask, RecordsTask)}
FROM_FILES: dict[str, type[BabiTask | SquadTask | ProseTask]] = {
    "babi": BabiTask,
    "squad": SquadTask,
    "short-squad": SquadTask,
    "text": ProseTask,
}
"By name; bAbI's may have numbers behind it."


def card_by_name(name: str) -> Task:
    """What a checkpoint of a task that reads files says about it.

    Raises:
        RecipeError: There is no such task.
    """
    return _from_files(name, FROM_FILES)(name, Path()).card()


def task_by_name(name: str, data: Path | None = None) -> TrainingTask:
    """The task of that name.

    Args:
        name: Its name.
        data: Where its files are, for a task that has them.

    Raises:
        RecipeError: There is none, or it needs data and none is given.
        DataError: Its files cannot be used.
    """
    if name in GENERATED:
        return GENERATED[name]()
    kind = _from_files(name, [*GENERATED, *FROM_FILES])
    if data is None:
        raise RecipeError(f"task: {name!r} reads files; say where they are (data, or --data PATH)")
    return kind(name, data)


def _from_files(name: str, known: Iterable[str]) -> type[BabiTask | SquadTask | ProseTask]:
    kind = FROM_FILES.get("babi" if name.startswith("babi-") else name)
    if kind is None:
        raise RecipeError(f"task: {name!r} is not one of {', '.join(known)}")
    return kind
