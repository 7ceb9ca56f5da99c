"""Tasks: sources of contexts, queries and answers."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from gradmem_core.checkpoints.manifest import Task
from gradmem_core.errors import RecipeError
from gradmem_core.tokenizer import Tokenizer
from training.tasks.asked import AskedPassages
from training.tasks.babi import BabiTask
from training.tasks.base import Example, Question, TextFormat, TrainingTask
from training.tasks.invented import InventedPassages
from training.tasks.kv import KeyValueTask
from training.tasks.passages import PassageSource
from training.tasks.prose import ProseTask
from training.tasks.records import RecordsTask
from training.tasks.squad import SquadTask
from training.tasks.structured import StructuredPassages
from training.tasks.windows import Weighted, WindowTask

SOURCES: dict[str, Callable[[], PassageSource]] = {
    source.name: source for source in (StructuredPassages, InventedPassages)
}
"Generated sources of passages by name."

__all__ = [
    "BabiTask",
    "Example",
    "KeyValueTask",
    "Question",
    "RecordsTask",
    "TextFormat",
    "TrainingTask",
    "WindowTask",
    "card_by_name",
    "task_by_name",
    "window_task",
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
    if name == WindowTask.name:
        return WindowTask.card()
    return _from_files(name, [*FROM_FILES, WindowTask.name])(name, Path()).card()


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


def window_task(
    sources: Mapping[str, float],
    tokenizer: Tokenizer,
    *,
    absent: float,
    longest: int,
    data: Path | None,
) -> WindowTask:
    """Make the task of windows of passages.

    Args:
        sources: Names of generated sources, or of folders in `data`, with weights; one of 0 is left
            out.
        tokenizer: What counts tokens.
        absent: Chance that a context is asked something that it does not answer.
        longest: Most tokens of any context.
        data: The folder of the folders.

    Raises:
        RecipeError: There is no source of a name, or it needs data and none is given.
    """
    weighted = [Weighted(_source(name, data), weight) for name, weight in sources.items() if weight]
    return WindowTask(weighted, tokenizer, absent=absent, longest=longest)


def _source(name: str, data: Path | None) -> PassageSource:
    if name in SOURCES:
        return SOURCES[name]()
    if data is None:
        raise RecipeError(
            f"mixture.sources: {name!r} is a folder of files, since it is not generated"
            f" ({', '.join(SOURCES)} are); say where it is (data, or --data PATH)"
        )
    if not (data / name).is_dir():
        raise RecipeError(f"mixture.sources: {data} has no folder {name!r}")
    return AskedPassages(data / name)


def _from_files(name: str, known: Iterable[str]) -> type[BabiTask | SquadTask | ProseTask]:
    kind = FROM_FILES.get("babi" if name.startswith("babi-") else name)
    if kind is None:
        raise RecipeError(f"task: {name!r} is not one of {', '.join(known)}")
    return kind
