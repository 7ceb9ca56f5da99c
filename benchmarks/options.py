"""Options that several measuring commands have."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

T = TypeVar("T")


def parsed(*names: str, parse: Callable[[str], T], help: str, metavar: str) -> Any:  # noqa: A002, ANN401 (typer's)
    """Make an option of a value that is read from text.

    Args:
        names: Names of the option; by default its parameter's.
        parse: Reads the value; what it raises as `ValueError` becomes the message to the user.
        help: Help text.
        metavar: How the value is shown in the help.
    """

    def read(value: str | T) -> T:
        if not isinstance(value, str):  # the default
            return value
        try:
            return parse(value)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    return typer.Option(*names, parser=read, help=help, metavar=metavar)


def separated(*names: str, parse: Callable[[str], T], help: str, metavar: str = "N,N") -> Any:  # noqa: A002, ANN401
    """Make an option of values that are separated by commas (see `parsed`)."""

    def parse_all(text: str) -> Sequence[T]:
        return [parse(part.strip()) for part in text.split(",") if part.strip()]

    return parsed(*names, parse=parse_all, help=help, metavar=metavar)


def positive(text: str) -> int:
    """Read a number from 1.

    Raises:
        ValueError: It is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r} is not a number from 1")
    return int(text)


def one_of(words: Sequence[str]) -> Callable[[str], str]:
    """Make a parser of some words, which raises `ValueError` for others."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is not one of {', '.join(words)}")
        return text

    return parse


CheckpointName = Annotated[
    str, typer.Argument(help="A folder, or the name of a bundled checkpoint.")
]
CheckpointOption = Annotated[
    str, typer.Option(metavar="NAME", help="A folder, or the name of a bundled checkpoint.")
]
Seed = Annotated[int, typer.Option(min=0, help="Random seed.")]
Steps = Annotated[Sequence[int], separated(parse=positive, help="Numbers of write steps (K).")]
Bank = Annotated[Path, typer.Option(help="Folder that caches memories between commands.")]
