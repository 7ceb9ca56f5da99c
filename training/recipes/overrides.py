"""Overrides of settings: `dotted.field=value`."""

import tomllib
from typing import Any

from gradmem_core.errors import RecipeError


def set_field(fields: dict[str, Any], override: str) -> None:
    """Set a field to the value of an override, as TOML has it; a bare word is a string.

    Raises:
        RecipeError: It is not of the form `dotted.field=value`, or a table on the way is none.
    """
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise RecipeError(f"{override!r} is not of the form field=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *tables, field = name.split(".")
    for table in tables:
        fields = fields.setdefault(table, {})
        if not isinstance(fields, dict):
            raise RecipeError(f"{override!r}: {table} is not a table")
    fields[field] = value
