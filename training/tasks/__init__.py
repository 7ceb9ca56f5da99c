"""Tasks: sources of contexts, queries and answers, each in the module of its name.

To add a task, copy the one most like it (`kv` is generated, `babi` reads files) and list its class
in GENERATED or FROM_FILES. To add a source of passages to the task `prose`, see `passages`.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from gradmem_core.checkpoints.manifest import Task
from gradmem_core.errors import RecipeError
from gradmem_core.tokenizer import Tokenizer
from training.tasks.babi import BabiTask
from training.tasks.base import Example, Question, TextFormat, TrainingTask
from training.tasks.kv import KeyValueTask
from training.tasks.passages import build_source
from training.tasks.prose import ProseTask, WeightedSource
from training.tasks.records import RecordsTask
from training.tasks.squad import SquadTask
from training.tasks.text import TextTask

__all__ = [
    "BabiTask",
    "Example",
    "KeyValueTask",
    "ProseTask",
    "Question",
    "RecordsTask",
    "TextFormat",
    "TrainingTask",
    "build_prose_task",
    "build_task",
    "find_card",
]

GENERATED: dict[str, type[TrainingTask]] = {task.name: task for task in (KeyValueTask, RecordsTask)}
"Tasks that need no data, by name."
FROM_FILES: dict[str, type[BabiTask | SquadTask | TextTask]] = {
    "babi": BabiTask,
    "squad": SquadTask,
    "short-squad": SquadTask,
    "text": TextTask,
}
"Tasks that read files, by name; bAbI's may be followed by numbers."


def find_card(name: str) -> Task:
    """Return the description that checkpoints of a task with files carry.

    Raises:
        RecipeError: There is no such task.
    """
    if name == ProseTask.name:
        return ProseTask.card()
    return _find_class(name, [*FROM_FILES, ProseTask.name])(name, Path()).card()


def build_task(name: str, data: Path | None = None) -> TrainingTask:
    """Build a task by name; the task `prose` needs more (see `build_prose_task`).

    Args:
        name: A key of GENERATED or FROM_FILES.
        data: Folder of its files, for a task that reads files.

    Raises:
        RecipeError: There is no such task, or it needs data and none is given.
        DataError: Its files cannot be used.
    """
    if name in GENERATED:
        return GENERATED[name]()
    task_class = _find_class(name, [*GENERATED, *FROM_FILES])
    if data is None:
        raise RecipeError(f"task: {name!r} reads files; say where they are (data, or --data PATH)")
    return task_class(name, data)


def build_prose_task(
    sources: Mapping[str, float],
    tokenizer: Tokenizer,
    *,
    absent: float,
    longest: int,
    data: Path | None,
) -> ProseTask:
    """Build the task of windows of passages.

    Args:
        sources: Names of generated sources, or of folders in `data`, with their weights; sources
            of weight 0 are left out.
        tokenizer: Counts tokens.
        absent: Chance that a context is asked something that it does not answer.
        longest: Most tokens of any context.
        data: The folder of the folders.

    Raises:
        RecipeError: There is no source of a name, or it needs data and none is given.
    """
    weighted = [
        WeightedSource(build_source(name, data), weight)
        for name, weight in sources.items()
        if weight
    ]
    return ProseTask(weighted, tokenizer, absent=absent, longest=longest)


def _find_class(name: str, known: Iterable[str]) -> type[BabiTask | SquadTask | TextTask]:
    task_class = FROM_FILES.get("babi" if name.startswith("babi-") else name)
    if task_class is None:
        raise RecipeError(f"task: {name!r} is not one of {', '.join(known)}")
    return task_class
