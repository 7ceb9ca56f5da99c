"""Print docs/REFERENCE.md: `.venv/bin/python scripts/api_reference.py > docs/REFERENCE.md`."""

import json
from collections.abc import Iterator
from typing import Any

from service.app import create_app
from service.models import Models
from service.settings import Settings

HEAD = """# HTTP reference

Printed by `scripts/api_reference.py` from the OpenAPI document, which a running service gives at
`/openapi.json` and shows with examples at `/docs`; a test compares the two. [HTTP API](API.md) has
worked examples.

"""
METHODS = ("get", "post", "put", "patch", "delete")
REFERENCE = "#/components/schemas/"
JSON = "application/json"
PROBLEM = "application/problem+json"


def render_reference() -> str:
    """Return the page."""
    document = describe_service()
    lines = [HEAD.rstrip(), ""]
    for path, operations in document["paths"].items():
        for method in METHODS:
            if method in operations:
                lines += render_operation(method, path, operations[method])
    lines += ["## Schemas", ""]
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines += render_schema(name, schema)
    return "\n".join(lines).rstrip() + "\n"


def describe_service() -> dict[str, Any]:
    """Return the OpenAPI document of a service that serves nothing."""
    return create_app(Settings(store_url="sqlite:///unused.db"), models=Models([])).openapi()


def render_operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a route."""
    yield f"## `{method.upper()} {path}`"
    yield ""
    yield from paragraphs(operation.get("description") or operation.get("summary", ""))
    parameters = operation.get("parameters", [])
    if parameters:
        yield "| parameter | in | type | meaning |"
        yield "| --- | --- | --- | --- |"
        for parameter in parameters:
            kind = describe_type(parameter["schema"])
            yield row(
                f"`{parameter['name']}`", parameter["in"], kind, parameter.get("description", "")
            )
        yield ""
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        yield from render_body(media, content["schema"])
    problems = []
    for status, response in sorted(operation["responses"].items()):
        if PROBLEM in response.get("content", {}):
            problems.append(status)
        else:
            bodies = ", ".join(map(describe_content, response.get("content", {}).items()))
            yield f"{status}: {bodies or response['description']}."
            yield ""
    if problems:
        yield f"Problems: {', '.join(problems)}."
        yield ""


def render_body(media: str, schema: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a request's body."""
    yield f"Body: `{media}`" + (f", {describe_type(schema)}." if "$ref" in schema else ".")
    yield ""
    yield from render_fields(schema)
    for example in schema.get("examples", [])[:1]:
        yield from ["```json", json.dumps(example, indent=2, ensure_ascii=False), "```", ""]


def render_schema(name: str, schema: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a schema."""
    yield f"### `{name}`"
    yield ""
    yield from paragraphs(schema.get("description", ""))
    yield from render_fields(schema)


def render_fields(schema: dict[str, Any]) -> Iterator[str]:
    """Yield the table of an object's fields."""
    fields = schema.get("properties", {})
    if fields:
        yield "| field | type | meaning |"
        yield "| --- | --- | --- |"
        needed = schema.get("required", [])
        for field, described in fields.items():
            mark = "" if field in needed else "Optional. "
            meaning = f"{mark}{described.get('description', '')}".strip()
            yield row(f"`{field}`", describe_type(described), meaning)
        yield ""


def describe_content(content: tuple[str, dict[str, Any]]) -> str:
    """Describe a body by its media type and schema."""
    media, described = content
    kind = describe_type(described.get("schema", {}))
    return kind if media == JSON else f"`{media}`" + (f" ({kind})" if "`" in kind else "")


def describe_type(schema: dict[str, Any]) -> str:
    """Describe the type of a value, with a link where it is a schema of its own."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(REFERENCE)
        return f"[`{name}`](#{name.lower()})"
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return " or ".join(dict.fromkeys(map(describe_type, schema[choice])))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(f"`{value}`" for value in values)
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {describe_type(schema.get('items', {}))}"
    return f"{kind}{describe_bounds(schema)}"


def describe_bounds(schema: dict[str, Any]) -> str:
    """Describe the range of a value."""
    if schema.get("type") not in ("integer", "number", "string"):
        return ""
    least = schema.get("minimum", schema.get("minLength"))
    most = schema.get("maximum", schema.get("maxLength"))
    if least is None and most is None:
        return ""
    if most is None:
        return f" from {least:,.10g}"
    return f" up to {most:,.10g}" if least is None else f", {least:,.10g} to {most:,.10g}"


def paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of a text, each with an empty line."""
    for paragraph in text.split("\n\n"):
        if paragraph.strip():
            yield " ".join(paragraph.split())
            yield ""


def row(*cells: str) -> str:
    """Return a row of a table."""
    clean = (" ".join(cell.split()).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(clean)} |"


if __name__ == "__main__":
    print(render_reference(), end="")
