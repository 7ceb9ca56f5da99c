"""Print docs/CLI.md: `.venv/bin/python scripts/cli_reference.py > docs/CLI.md`."""

from collections.abc import Iterator

import typer
from typer.core import TyperCommand, TyperGroup

from benchmarks.cli import app as gradmem_bench
from service.cli import app as gradmem
from training.cli import app as gradmem_train

PROGRAMS = {"gradmem": gradmem, "gradmem-train": gradmem_train, "gradmem-bench": gradmem_bench}
WIDTH = 80
HEAD = """# Command line

Printed by `scripts/cli_reference.py` from the programs' own help; a test compares the two.
"""
SECTION = """
## `{name}`

```text
{help}
```
"""


def render_reference() -> str:
    """Return the page."""
    sections = [
        section
        for name, app in PROGRAMS.items()
        for section in render_sections(name, typer.main.get_command(app))
    ]
    return HEAD + "".join(sections)


def render_sections(name: str, command: object) -> Iterator[str]:
    """Yield the help of a command and of each command below it."""
    assert isinstance(command, TyperCommand | TyperGroup)
    yield SECTION.format(name=name, help=read_help(name, command))
    if isinstance(command, TyperGroup):
        for word, below in command.commands.items():
            yield from render_sections(f"{name} {word}", below)


def read_help(name: str, command: TyperCommand | TyperGroup) -> str:
    """Return a command's help without the boxes that Rich draws as wide as the terminal."""
    command.rich_markup_mode = None
    context = command.context_class(command, info_name=name, terminal_width=WIDTH)
    return command.get_help(context)


if __name__ == "__main__":
    print(render_reference(), end="")
