"""The TOML files beside this module: the data that documents and questions are made of."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any


@cache
def load_data(name: str) -> dict[str, Any]:
    """Return the tables of `name`.toml, which callers leave unchanged."""
    return tomllib.loads(Path(__file__).with_name(f"{name}.toml").read_text("utf-8"))


def load_forms(document: str) -> dict[str, list[str]]:
    """Return the forms of a document's lines by what they are lines of."""
    forms: dict[str, list[str]] = load_data("forms")[document]
    return forms


def load_heads(document: str) -> list[list[str]]:
    """Return the head lines that a document may have: the key, the kind of its value, and so on."""
    heads: list[list[str]] = load_data("forms")[document]["heads"]
    return heads
