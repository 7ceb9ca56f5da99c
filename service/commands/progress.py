"""Progress of long work on standard error, where that is a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Report = Callable[[int, str], None]
"Takes the number of pieces that are done and a note on the present one."


@contextmanager
def show_progress(total: int | None) -> Iterator[Report]:
    """Yield a function that reports progress; it prints nothing outside a terminal.

    Args:
        total: Number of pieces; None where it is not known.
    """
    console = Console(stderr=True)
    columns = (
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=total)
        yield lambda done, note: progress.update(task, completed=done, description=note)
