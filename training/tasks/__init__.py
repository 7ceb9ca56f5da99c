"""Tasks: sources of contexts, queries and answers."""

from gradmem_core.errors import RecipeError
from training.tasks.base import Example, Question, TrainingTask
from training.tasks.kv import KeyValueTask
from training.tasks.records import RecordsTask

__all__ = ["Example", "KeyValueTask", "Question", "RecordsTask", "TrainingTask", "task_by_name"]

TASKS: dict[str, type[TrainingTask]] = {task.name: task for task in (KeyValueTask, RecordsTask)}


def task_by_name(name: str) -> TrainingTask:
    """The task of that name.

    Raises:
        RecipeError: There is none.
    """
    if name not in TASKS:
        raise RecipeError(f"task: {name!r} is not one of {', '.join(sorted(TASKS))}")
    return TASKS[name]()
