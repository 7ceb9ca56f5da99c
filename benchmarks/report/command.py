"""`gradmem-bench report`: fill the pages, or print the tables of some files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.command import reported_errors
from benchmarks.report.markdown import PLACE, fill
from benchmarks.report.tables import named_table, render
from benchmarks.results import ResultFile, load_result, load_results
from gradmem_core.errors import InputError

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/*.md", "benchmarks/results/*.md", "gradmem_core/bundled/*/README.md")
PICTURES = Path("docs/pictures")


def report(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Result files whose tables to print.")
    ] = None,
) -> None:
    """Fill the tables of all pages from the result files, and draw their pictures.

    With FILES, print the tables of those instead.
    """
    with reported_errors():
        if files:
            typer.echo(render([load_result(path) for path in files]))
        else:
            typer.echo("\n".join(map(str, save_report(ROOT, load_results()))))


def make_report(root: Path, files: Sequence[ResultFile]) -> dict[Path, bytes]:
    """Return the pages that have places for tables, filled, and the pictures, by path.

    Args:
        root: Folder that holds the pages.
        files: Results.

    Raises:
        InputError: A page asks for a table that does not exist, or results cannot be used.
    """
    from benchmarks.report.pictures import draw_all  # takes a second

    made = {PICTURES / name: picture for name, picture in draw_all(files).items()}
    for path in sorted(path for pattern in PAGES for path in root.glob(pattern)):
        page = path.read_text(encoding="utf-8")
        if PLACE.search(page):
            filled = fill(page, lambda place: named_table(files, place))
            made[path.relative_to(root)] = filled.encode()
    return made


def save_report(root: Path, files: Sequence[ResultFile]) -> list[Path]:
    """Write what `make_report` returns; pictures that are no longer made go. Return the paths.

    Raises:
        InputError: See `make_report`; or a file cannot be written.
    """
    made = make_report(root, files)
    try:
        (root / PICTURES).mkdir(parents=True, exist_ok=True)
        for old in (root / PICTURES).glob("*.svg"):
            old.unlink()
        for path, content in made.items():
            (root / path).write_bytes(content)
    except OSError as error:
        raise InputError(f"{error.filename} cannot be written: {error.strerror}") from error
    return list(made)
