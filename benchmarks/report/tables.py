"""All tables by name, as pages ask for them and as commands print them."""

from collections.abc import Callable

from benchmarks.report import capacity, goals, index, pairs, reliability, serving, texts
from benchmarks.report.frames import Files
from benchmarks.report.markdown import titled
from gradmem_core.errors import InputError

PRINTED: tuple[Callable[..., str], ...] = (
    *(*pairs.PRINTED, *texts.PRINTED, *serving.TABLES, *capacity.PRINTED, *reliability.TABLES),
)
"Tables that `render` joins."
OTHERS: tuple[Callable[..., str], ...] = (
    *(index.measured_files, goals.prose_goals, goals.serving_goals),
    *(pairs.ladder, pairs.baselines, pairs.seeds, pairs.write_steps, pairs.ablations, pairs.bits),
    *(pairs.milestones, texts.summary, texts.page_costs, texts.stories),
    *(texts.records_summary, texts.records_training),
    *(capacity.capacity_constants, capacity.capacity_plans),
)
"Tables that only pages have."
TABLES = {function.__name__.replace("_", "-"): function for function in (*PRINTED, *OTHERS)}
"All tables by name, which is that of their function."


def render(files: Files) -> str:
    """Return the tables of some result files (Markdown); empty where they hold nothing for one.

    Raises:
        InputError: A row is malformed, or two checkpoints cannot be told apart.
    """
    return titled(files, PRINTED)


def named_table(files: Files, place: str) -> str:
    """Return the table for the words of a place: its name, and arguments as `KEY=VALUE`.

    Raises:
        InputError: There is no such table.
    """
    name, *words = place.split()
    if name not in TABLES:
        raise InputError(f"no table is called {name!r}: use one of {', '.join(sorted(TABLES))}")
    arguments = dict(word.split("=", 1) for word in words)
    return TABLES[name](files, **arguments)
