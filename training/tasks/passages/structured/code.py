"""Documents of code: functions with constants, tables of SQL, crontabs and shell scripts."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from training.tasks.passages.structured import formats
from training.tasks.passages.structured.draws import Draws
from training.tasks.passages.structured.events import filled
from training.tasks.passages.structured.page import Page
from training.tasks.passages.structured.records import other_names

FUNCTIONS = Path(__file__).with_name("code.toml")


@dataclass(frozen=True)
class Language:
    """The way a language writes constants and functions.

    In its lines `{name}`, `{value}`, `{doc}`, `{parameters}` (joined by commas), `{type}` of what
    is returned and `{body}` are filled in; in a parameter `{name}`, `{type}` and `{default}`.
    """

    constant: str
    function: tuple[str, ...]
    parameter: str
    types: tuple[str, ...]
    defaulted: str = ""
    "A parameter with a default, where the language has them."
    name: formats.Spelling = formats.snake
    typed: bool = True


LANGUAGES = {
    "python": Language(
        "{name} = {value}",
        ("def {name}({parameters}) -> {type}:", '    """{doc}."""', "    return {body}"),
        "{name}: {type}", ("int", "float", "Decimal"), "{name}: {type} = {default}",
    ),
    "python-untyped": Language(
        "{name} = {value}",
        ("# {doc}", "def {name}({parameters}):", "    return {body}"),
        "{name}", ("int",), "{name}={default}", typed=False,
    ),
    "javascript": Language(
        "const {name} = {value};",
        ("// {doc}", "function {name}({parameters}) {", "  return {body};", "}"),
        "{name}", ("number",), "{name} = {default}", name=formats.camel, typed=False,
    ),
    "arrow": Language(
        "export const {name} = {value};",
        ("/** {doc}. */", "const {name} = ({parameters}) => {", "  return {body};", "};"),
        "{name}", ("number",), "{name} = {default}", name=formats.camel, typed=False,
    ),
    "typescript": Language(
        "const {name}: number = {value};",
        ("// {doc}", "export function {name}({parameters}): {type} {", "  return {body};", "}"),
        "{name}: {type}", ("number", "bigint", "Money"), "{name}: {type} = {default}",
        name=formats.camel,
    ),
    "go": Language(
        "const {name} = {value}",
        ("// {doc}.", "func {name}({parameters}) {type} {", "\treturn {body}", "}"),
        "{name} {type}", ("int", "float64", "int64", "uint32"), name=formats.camel,
    ),
    "rust": Language(
        "const {name}: u32 = {value};",
        ("/// {doc}.", "fn {name}({parameters}) -> {type} {", "    {body}", "}"),
        "{name}: {type}", ("u32", "f64", "i64", "usize"),
    ),
    "java": Language(
        "static final int {name} = {value};",
        ("// {doc}", "static {type} {name}({parameters}) {", "    return {body};", "}"),
        "{type} {name}", ("int", "long", "double"), name=formats.camel,
    ),
}  # fmt: skip
CONSTANTS = (
    "max {}",
    "{} limit",
    "default {}",
    "{} timeout",
    "{} size",
    "min {}",
    "{} retries",
    "{}",
    "{} factor",
)
COMMANDS = (
    "cd {path}",
    "rm -f {file}",
    "tar xzf {file}",
    "pip install {made}",
    "git checkout {branch}",
    "curl -O {url}",
    "cp {file} {path}",
    "systemctl restart {service}",
    "chmod 7##",
    "./{plain_word}.sh",
    "docker pull {made}:{version}",
    "scp {file} {host}:",
    "make {plain_word}",
    "mkdir -p {path}",
    "psql {made}",
)
SHELL_VARIABLES = (
    ("HOST", "host"),
    ("PORT", "port"),
    ("TARGET", "path"),
    ("VERSION", "version"),
    ("URL", "url"),
    ("BRANCH", "branch"),
    ("RETRIES", "small"),
    ("ADMIN", "email"),
    ("TOKEN", "hexid"),
    ("MODE", "env"),
)


@cache
def _functions() -> list[dict[str, str]]:
    loaded: list[dict[str, str]] = tomllib.loads(FUNCTIONS.read_text())["function"]
    return loaded


def functions(draws: Draws, language_name: str | None = None) -> Page:
    """Write constants and functions in a language, drawn unless given."""
    language = LANGUAGES[language_name or draws.pick(list(LANGUAGES))]
    page = Page()
    _constants(page, draws, language, draws.between(0, 5))
    if page.pieces:
        page.gap()
    chosen = draws.shuffled(_functions())[: draws.between(0 if page.pieces else 1, 3)]
    nouns = draws.different("plain_word", len(chosen) + 1)
    for entry, noun in zip(chosen, nouns, strict=False):
        _function(page, draws, language, entry, noun)
        page.gap()
    other = language.name(f"{draws.pick(_functions())['verb']} {nouns[-1]}")
    page.lack("code_function.returns", other, name=other)
    return page


def _constants(page: Page, draws: Draws, language: Language, number: int) -> None:
    names = [
        formats.upper_snake(form.format(draws.word())) for form in draws.some(CONSTANTS, number)
    ]
    values = [draws.value("constant_value").replace("_", "") for _ in names]
    for name, value in zip(names, values, strict=True):
        place = page.add(language.constant.format(name=name, value=value))
        page.ask("code_constant.ask", value, place, name=name)
        page.ask("code_constant.ask", value, place, name=name)
        if sum(value in other for other in values) == 1 and len(value) > 1:
            page.ask("code_constant.back", name, place, value=value)
    if names:
        for name in (draws.near(names[0].lower()).upper(), f"{names[-1]}_{draws.word().upper()}"):
            page.lack("code_constant.ask", name, name=name)


def _function(
    page: Page, draws: Draws, language: Language, entry: dict[str, str], noun: str
) -> None:
    """Write a function and note what it takes and returns."""
    name = language.name(f"{entry['verb']} {noun}")
    parameters = draws.different("plain_word", 2)[: 2 if "{b}" in entry["body"] else 1]
    fill = dict(zip("ab", parameters, strict=False))
    doc = formats.capital(entry["doc"].format_map(fill))
    body = entry["body"].format_map(
        fill | {"number": draws.value("constant_value").replace("_", "")}
    )
    of, written = _parameters(draws, language, parameters)
    returned = draws.pick(language.types)
    lines = [
        _filled(line, name=name, doc=doc, body=body, type=returned, parameters=written)
        for line in language.function
    ]
    first = len(page.pieces)
    for line in lines:
        page.add(line)
    last = len(page.pieces) - 1
    page.ask("code_function.returns", body, (first, last), name=name)
    page.ask("code_function.comment", doc, (first, last), name=name)
    page.ask("code_function.back", name, (first, last), comment=doc)
    page.ask("code_function.argument", parameters[0], (first, last), name=name)
    if language.typed:
        page.ask("code_function.type", returned, (first, last), name=name)
    for parameter, (kind, default) in zip(parameters, of, strict=True):
        about = {"name": name, "argument": parameter}
        if language.typed:
            page.ask("code_function.argument_type", kind, (first, last), **about)
        if default:
            page.ask("code_function.default", default, (first, last), **about)
        else:
            page.lack("code_function.default", **about)


def _parameters(
    draws: Draws, language: Language, names: Sequence[str]
) -> tuple[list[tuple[str, str]], str]:
    """Draw the types and defaults of parameters, and write them; only the last has a default."""
    of, written = [], []
    for name in names:
        kind, default = draws.pick(language.types), ""
        form = language.parameter
        if language.defaulted and name == names[-1] and draws.chance(0.6):
            form, default = language.defaulted, draws.value("constant_value").replace("_", "")
        of.append((kind, default))
        written.append(form.format(name=name, type=kind, default=default))
    return of, ", ".join(written)


def _filled(template: str, **fill: str) -> str:
    for name, text in fill.items():
        template = template.replace(f"{{{name}}}", text)
    return template


def create_table(draws: Draws) -> Page:
    """Write the definition of a table of SQL."""
    page = Page()
    table = formats.snake(draws.value("table_name"))
    page.ask("sql.table", table, page.add(f"CREATE TABLE {table} ("))
    page.lead = 1
    columns = draws.different("column_name", draws.between(2, 9))
    types = [draws.value("sql_type") for _ in columns]
    key = draws.between(0, len(columns) - 1) if draws.chance(0.6) else None
    for number, (column, kind) in enumerate(zip(columns, types, strict=True)):
        default = draws.value("small") if number != key and draws.chance(0.3) else ""
        extra = " PRIMARY KEY" if number == key else draws.pick(("", " NOT NULL", " UNIQUE"))
        extra = f"{extra} DEFAULT {default}" if default else extra
        comma = "," if number < len(columns) - 1 else ""
        place = page.add(f"    {column} {kind}{extra}{comma}")
        page.ask("sql.type", kind, place, column=column)
        if types.count(kind) == 1:
            page.ask("sql.back", column, place, type=kind)
        if default:
            page.ask("sql.default", default, place, column=column)
        else:
            page.lack("sql.default", column=column)
        if number == key:
            page.ask("sql.key", column, place)
    for name in other_names(draws, "column_name", columns):
        page.lack("sql.type", name, column=name)
    page.add(");")
    return page


def crontab(draws: Draws) -> Page:
    """Write a crontab: a schedule and a command a line."""
    page = Page()
    commands = draws.different("path", draws.between(1, 8))
    schedules = draws.different("cron", len(commands))
    for command, schedule in zip(commands, schedules, strict=False):
        place = page.add(f"{schedule} {command}")
        page.ask("shell.schedule", schedule, place, command=command)
        page.ask("shell.command", command, place, schedule=schedule)
    for command in other_names(draws, "path", commands):
        page.lack("shell.schedule", command, command=command)
    return page


def script(draws: Draws) -> Page:
    """Write a shell script: variables, then commands."""
    page = Page()
    page.add(draws.pick(("#!/bin/sh", "#!/usr/bin/env bash", "#!/bin/bash")))
    page.lead = 1
    chosen = draws.some(SHELL_VARIABLES, draws.between(1, 6))
    prefix = f"{draws.word().upper()}_" if draws.chance(0.4) else ""
    for name, kind in chosen:
        value = draws.value(kind)
        place = page.add(f"{prefix}{name}={formats.quoted(value)}")
        page.ask("shell.variable", value, place, name=prefix + name)
    for name, kind in SHELL_VARIABLES:
        if (name, kind) not in chosen:
            page.lack("shell.variable", f"{prefix}{name}", name=prefix + name)
    _commands(page, draws, draws.between(0, 5))
    return page


def _commands(page: Page, draws: Draws, number: int) -> None:
    """Write commands and ask which comes after which."""
    chosen = draws.shuffled(COMMANDS)[:number]
    written = [_command(draws, pattern) for pattern in chosen]
    places = [page.add(command) for command in written]
    for place, command, after in zip(places, written, written[1:], strict=False):
        page.ask("shell.step", after, (place, place + 1), command=command)
    if written:
        page.lack("shell.step", command=written[-1])


def _command(draws: Draws, pattern: str) -> str:
    return filled(draws, pattern.replace("##", str(draws.between(10, 77))))
