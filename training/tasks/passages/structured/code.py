"""Documents of code: functions with constants, tables of SQL, crontabs and shell scripts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from training.tasks.passages.structured import spellings
from training.tasks.passages.structured.data import load_data, load_forms
from training.tasks.passages.structured.draft import Draft
from training.tasks.passages.structured.draws import Draws


@dataclass(frozen=True)
class Language:
    """The way a language writes constants and functions (see code.toml)."""

    constant: str
    function: list[str]
    parameter: str
    types: list[str]
    parameter_with_default: str = ""
    "Empty where the language has no defaults."
    names: str = "snake_case"
    "The spelling of functions."
    typed: bool = True

    def spell(self, name: str) -> str:
        """Spell the name of a function."""
        return spellings.SPELLINGS[self.names](name)


@cache
def load_languages() -> dict[str, Language]:
    """Return the languages by name."""
    return {name: Language(**table) for name, table in load_data("code")["languages"].items()}


def write_functions(draws: Draws, language_name: str | None = None) -> Draft:
    """Write constants and functions in a language, drawn unless given."""
    languages = load_languages()
    language = languages[language_name or draws.pick(list(languages))]
    functions: list[dict[str, str]] = load_data("code")["functions"]
    draft = Draft()
    _write_constants(draft, draws, language, draws.between(0, 5))
    if draft.pieces:
        draft.gap()
    chosen = draws.shuffled(functions)[: draws.between(0 if draft.pieces else 1, 3)]
    nouns = draws.different("plain_word", len(chosen) + 1)
    for function, noun in zip(chosen, nouns, strict=False):
        _write_function(draft, draws, language, function, noun)
        draft.gap()
    other = language.spell(f"{draws.pick(functions)['verb']} {nouns[-1]}")
    draft.ask_absent("code_function.returns", other, name=other)
    return draft


def _write_constants(draft: Draft, draws: Draws, language: Language, number: int) -> None:
    forms = draws.some(load_forms("code")["constants"], number)
    names = [spellings.upper_snake_case(form.format(draws.word())) for form in forms]
    values = [_draw_number(draws) for _ in names]
    for name, value in zip(names, values, strict=True):
        place = draft.add(language.constant.format(name=name, value=value))
        draft.ask("code_constant.ask", value, place, name=name)
        draft.ask("code_constant.ask", value, place, name=name)
        if sum(value in other for other in values) == 1 and len(value) > 1:
            draft.ask("code_constant.back", name, place, value=value)
    if names:
        for name in (draws.near(names[0].lower()).upper(), f"{names[-1]}_{draws.word().upper()}"):
            draft.ask_absent("code_constant.ask", name, name=name)


def _write_function(
    draft: Draft, draws: Draws, language: Language, function: dict[str, str], noun: str
) -> None:
    """Write a function, and ask what it takes and returns."""
    name = language.spell(f"{function['verb']} {noun}")
    parameters = draws.different("plain_word", 2)[: 2 if "{b}" in function["body"] else 1]
    fill = dict(zip("ab", parameters, strict=False))
    doc = spellings.capitalise(function["doc"].format_map(fill))
    body = function["body"].format_map(fill | {"number": _draw_number(draws)})
    signature, written = _draw_signature(draws, language, parameters)
    returned = draws.pick(language.types)
    texts = {"name": name, "doc": doc, "body": body, "type": returned, "parameters": written}
    first = len(draft.pieces)
    for line in language.function:
        draft.add(spellings.fill(line, texts))
    lines = first, len(draft.pieces) - 1
    draft.ask("code_function.returns", body, lines, name=name)
    draft.ask("code_function.comment", doc, lines, name=name)
    draft.ask("code_function.back", name, lines, comment=doc)
    draft.ask("code_function.argument", parameters[0], lines, name=name)
    if language.typed:
        draft.ask("code_function.type", returned, lines, name=name)
    for parameter, (kind, default) in zip(parameters, signature, strict=True):
        about = {"name": name, "argument": parameter}
        if language.typed:
            draft.ask("code_function.argument_type", kind, lines, **about)
        if default:
            draft.ask("code_function.default", default, lines, **about)
        else:
            draft.ask_absent("code_function.default", **about)


def _draw_signature(
    draws: Draws, language: Language, names: Sequence[str]
) -> tuple[list[tuple[str, str]], str]:
    """Draw the types and defaults of parameters, and write them; only the last has a default."""
    signature, written = [], []
    for name in names:
        kind, default = draws.pick(language.types), ""
        form = language.parameter
        if language.parameter_with_default and name == names[-1] and draws.chance(0.6):
            form, default = language.parameter_with_default, _draw_number(draws)
        signature.append((kind, default))
        written.append(form.format(name=name, type=kind, default=default))
    return signature, ", ".join(written)


def _draw_number(draws: Draws) -> str:
    return draws.value("constant_value").replace("_", "")


def write_create_table(draws: Draws) -> Draft:
    """Write the definition of a table of SQL."""
    draft = Draft(lead=1)
    table = spellings.snake_case(draws.value("table_name"))
    draft.ask("sql.table", table, draft.add(f"CREATE TABLE {table} ("))
    columns = draws.different("column_name", draws.between(2, 9))
    types = [draws.value("sql_type") for _ in columns]
    key = draws.between(0, len(columns) - 1) if draws.chance(0.6) else None
    for number, (column, kind) in enumerate(zip(columns, types, strict=True)):
        default = draws.value("small") if number != key and draws.chance(0.3) else ""
        extra = " PRIMARY KEY" if number == key else draws.pick(("", " NOT NULL", " UNIQUE"))
        extra = f"{extra} DEFAULT {default}" if default else extra
        comma = "," if number < len(columns) - 1 else ""
        place = draft.add(f"    {column} {kind}{extra}{comma}")
        draft.ask("sql.type", kind, place, column=column)
        if types.count(kind) == 1:
            draft.ask("sql.back", column, place, type=kind)
        if default:
            draft.ask("sql.default", default, place, column=column)
        else:
            draft.ask_absent("sql.default", column=column)
        if number == key:
            draft.ask("sql.key", column, place)
    for name in draws.other_names("column_name", columns):
        draft.ask_absent("sql.type", name, column=name)
    draft.add(");")
    return draft


def write_crontab(draws: Draws) -> Draft:
    """Write a crontab: a schedule and a command a line."""
    draft = Draft()
    commands = draws.different("path", draws.between(1, 8))
    schedules = draws.different("cron", len(commands))
    for command, schedule in zip(commands, schedules, strict=False):
        place = draft.add(f"{schedule} {command}")
        draft.ask("shell.schedule", schedule, place, command=command)
        draft.ask("shell.command", command, place, schedule=schedule)
    for command in draws.other_names("path", commands):
        draft.ask_absent("shell.schedule", command, command=command)
    return draft


def write_script(draws: Draws) -> Draft:
    """Write a shell script: variables, then commands."""
    forms = load_forms("script")
    variables: list[list[str]] = load_data("forms")["script"]["variables"]
    draft = Draft(lead=1)
    draft.add(draws.pick(forms["shebangs"]))
    chosen = draws.some(variables, draws.between(1, 6))
    prefix = f"{draws.word().upper()}_" if draws.chance(0.4) else ""
    for name, kind in chosen:
        value = draws.value(kind)
        place = draft.add(f"{prefix}{name}={spellings.quote(value)}")
        draft.ask("shell.variable", value, place, name=prefix + name)
    for variable in variables:
        if variable not in chosen:
            name = prefix + variable[0]
            draft.ask_absent("shell.variable", name, name=name)
    _write_commands(draft, draws, draws.between(0, 5))
    return draft


def _write_commands(draft: Draft, draws: Draws, number: int) -> None:
    """Write commands, and ask which comes after which."""
    chosen = draws.shuffled(load_forms("script")["commands"])[:number]
    written = [draws.fill(form.replace("##", str(draws.between(10, 77)))) for form in chosen]
    places = [draft.add(command) for command in written]
    for place, command, after in zip(places, written, written[1:], strict=False):
        draft.ask("shell.step", after, (place, place + 1), command=command)
    if written:
        draft.ask_absent("shell.step", command=written[-1])
