"""Print docs/CLI.md: `.venv/bin/python scripts/cli_reference.py > docs/CLI.md`."""

from collections.abc import Iterator

import typer
from typer.core import TyperCommand, TyperGroup

from service.cli import app as gradmem
from training.cli import app as gradmem_train

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


def reference() -> str:
    """The page."""
    programs = {"gradmem": gradmem, "gradmem-train": gradmem_train}
    sections = [section for name, app in programs.items() for section in sections_of(name, app)]
    return HEAD + "".join(sections)


def sections_of(program: str, app: typer.Typer) -> Iterator[str]:
    """The help of a program, and of each of its commands."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    yield section_of(program, group)
    for name, command in group.commands.items():
        assert isinstance(command, TyperCommand)
        yield section_of(f"{program} {name}", command)


def section_of(name: str, command: TyperCommand | TyperGroup) -> str:
    """The help of one command, without the boxes that Rich draws as wide as the terminal."""
    command.rich_markup_mode = None
    context = command.context_class(command, info_name=name, terminal_width=WIDTH)
    return SECTION.format(name=name, help=command.get_help(context))


if __name__ == "__main__":
    print(reference(), end="")
