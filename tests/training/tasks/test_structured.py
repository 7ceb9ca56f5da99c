"""Structured passages: what they ask is answered by their text, or truly is not."""

import configparser
import csv
import io
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from gradmem_core.tokenizer import Tokenizer
from training.seeds import stream
from training.tasks.passages.base import Passage, PassageQuestion
from training.tasks.passages.structured import FAMILIES, StructuredPassages, lists, tables
from training.tasks.passages.structured.code import load_languages, write_functions
from training.tasks.passages.structured.draft import LONGEST_QUERY, Draft, list_alternatives
from training.tasks.passages.structured.draws import Draws, load_kinds
from training.tasks.passages.structured.list_formats import load_list_formats
from training.tasks.passages.structured.sheet import Sheet, load_domains
from training.tasks.passages.structured.table_formats import BlockFormat, load_table_formats
from training.tasks.passages.structured.wordings import find_wordings, phrase

TABLE_FORMATS, LIST_FORMATS = load_table_formats(), load_list_formats()
SEEDS = 600
TOKENS = 55
"Most tokens of a query with its answer."
PROSE = Path(__file__).parents[3] / "gradmem_core/bundled/prose"


def drawn(seed: int) -> Passage:
    return StructuredPassages().draw(stream("train", seed), "train")


@pytest.fixture(scope="module")
def passages() -> list[Passage]:
    return [drawn(seed) for seed in range(SEEDS)]


def draws(seed: int = 0) -> Draws:
    return Draws(np.random.default_rng(seed))


def servers() -> Sheet:
    """Return two servers, the second of which has no owner."""
    domain = load_domains()["servers"]
    ip, _, memory = (
        next(f for f in domain.fields if label in f.labels) for label in ("IP", "os", "memory")
    )
    owner = next(f for f in domain.fields if "owner" in f.labels)
    return Sheet(
        domain=domain,
        title="Servers",
        corner="server",
        names=("web-01", "db 2"),
        fields=(ip, memory, owner),
        heads=("IP", "memory", "owner"),
        rows=(("10.0.3.7", "16 GB", "Łukasz Wójcik"), ("10.0.3.8", "16 GB", None)),
    )


def read(passage: Passage, first: int, last: int) -> str:
    return "".join([*passage.pieces[: passage.lead], *passage.pieces[first : last + 1]])


def test_the_pieces_are_the_text(passages: list[Passage]) -> None:
    for passage in passages:
        assert "".join(passage.pieces) == passage.text
        assert all(passage.pieces)
        assert 0 <= passage.lead <= len(passage.pieces)


def test_answers_stand_in_the_pieces_that_they_need(passages: list[Passage]) -> None:
    for passage in passages:
        answered = [question for question in passage.questions if question.answers]
        assert answered
        for question in answered:
            assert 0 <= question.first <= question.last < len(passage.pieces)
            assert question.answers[0] in read(passage, question.first, question.last)
            assert all(question.answers)


def test_no_query_is_asked_twice(passages: list[Passage]) -> None:
    for passage in passages:
        queries = [question.query.casefold().rstrip("?") for question in passage.questions]
        assert len(set(queries)) == len(queries)


def test_a_fifth_of_the_questions_has_no_answer(passages: list[Passage]) -> None:
    answers = [question.answers for passage in passages for question in passage.questions]
    assert 0.15 < sum(not answer for answer in answers) / len(answers) < 0.25


def test_documents_and_queries_are_short(passages: list[Passage]) -> None:
    for passage in passages:
        assert 1 <= len(passage.text.splitlines()) <= 25
        for question in passage.questions:
            assert len(question.query.split()) <= LONGEST_QUERY
            assert "{" not in question.query or "{" in passage.text


def test_questions_fit_the_tokens_that_training_has_for_them(passages: list[Passage]) -> None:
    tokenizer = Tokenizer.from_folder(PROSE)
    for passage in passages[:150]:
        for question in passage.questions:
            answer = question.answers[0] if question.answers else ""
            assert len(tokenizer.encode(f"{question.query} {answer}")) <= TOKENS


def test_texts_have_several_alphabets(passages: list[Passage]) -> None:
    text = "".join(passage.text for passage in passages)
    for alphabet in ("éüř", "жи", "λς", "京田"):
        assert any(letter in text for letter in alphabet)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_asks_something_answerable(name: str) -> None:
    write, _ = FAMILIES[name]
    found: list[PassageQuestion] = []
    for seed in range(25):
        source = draws(seed)
        found += write(source).finish(source).questions
    assert sum(bool(question.answers) for question in found) >= 25
    assert sum(not question.answers for question in found) >= 3


@pytest.mark.parametrize("name", TABLE_FORMATS)
def test_every_table_format_says_every_value_where_it_is_said_to(name: str) -> None:
    for seed in range(6):
        source = draws(seed)
        draft = tables.write_table(source, name)
        assert len(draft.answerable) >= 2
        assert not re.search(
            r"\{(name|corner|plural|title|head|value|comma)\}", "".join(draft.pieces)
        )
        for fact in draft.answerable:
            there = "".join(
                [*draft.pieces[: draft.lead], *draft.pieces[fact.first : fact.last + 1]]
            )
            written = any(fact.answers[0] in text for text in (there, there.replace("''", "'")))
            assert written or "&" in fact.answers[0]


@pytest.mark.parametrize("name", LIST_FORMATS)
def test_every_list_format_says_every_value_where_it_is_said_to(name: str) -> None:
    for seed in range(6):
        source = draws(seed)
        draft = lists.write_card(source, name)
        for fact in draft.answerable:
            assert fact.answers[0] in "".join(draft.pieces[fact.first : fact.last + 1]) or {
                "&",
                "'",
            } & set(fact.answers[0])


@pytest.mark.parametrize("name", load_languages())
def test_every_language_writes_functions(name: str) -> None:
    source = draws(4)
    assert write_functions(source, name).finish(source).questions


def test_no_two_fields_of_a_domain_are_called_alike() -> None:
    for name, domain in load_domains().items():
        called = [label.lower() for field in domain.fields for label in field.called]
        assert len(set(called)) == len(called), name
        assert domain.what not in called, name
        assert domain.names in load_kinds(), name
        assert all(kind in load_kinds() for f in domain.fields for kind in f.kind.split("|")), name


@pytest.mark.parametrize("kind", sorted(load_kinds()))
def test_every_kind_draws_values(kind: str) -> None:
    source = draws(9)
    values = [source.value(kind) for _ in range(30)]
    assert all(0 < len(value) <= 48 for value in values)
    assert not any(sign in value for value in values for sign in '{}"\\|\t\n')


def test_every_wording_can_be_filled_in() -> None:
    source = draws()
    fill = dict.fromkeys(("name", "label", "value", "what"), "x")
    for domain in load_domains().values():
        for asked in domain.fields:
            for wording in (*asked.ask, *asked.back):
                assert "{name}" in wording or "{value}" in wording
                assert "{" not in phrase(source, wording, fill)


def test_a_markdown_table() -> None:
    table = TABLE_FORMATS["markdown-narrow"](servers(), _without_title("markdown-narrow"))
    heads = table.draft.pieces[0].strip("| \n").split(" | ")
    empty = table.draft.pieces[3].strip("\n").split(" | ")[-1].removesuffix(" |")
    assert [head.lower() for head in heads] == ["server", "ip", "memory", "owner"]
    assert table.draft.pieces[1:] == [
        "|---|---|---|---|\n",
        "| web-01 | 10.0.3.7 | 16 GB | Łukasz Wójcik |\n",
        f"| db 2 | 10.0.3.8 | 16 GB | {empty} |\n",
    ]
    assert table.draft.lead == 2
    assert table.cells[1, 0] == (3, 3)


def _without_title(name: str) -> Draws:
    return next(
        source
        for source, again in ((draws(seed), draws(seed)) for seed in range(40))
        if TABLE_FORMATS[name](servers(), again).draft.lead == 2
    )


def test_yaml_by_name_and_what_can_be_asked() -> None:
    source = next(
        draws(seed)
        for seed in range(40)
        if TABLE_FORMATS["yaml-by-name"](servers(), draws(seed)).heads[0] == "ip"
    )
    table = TABLE_FORMATS["yaml-by-name"](servers(), source)
    draft = tables.ask_about_table(servers(), table, source)
    assert draft.pieces == [
        "web-01:\n",
        '  ip: "10.0.3.7"\n',
        '  memory: "16 GB"\n',
        '  owner: "Łukasz Wójcik"\n',
        "db 2:\n",
        '  ip: "10.0.3.8"\n',
        '  memory: "16 GB"\n',
    ]
    plain = {(f.answers[0], f.first, f.last) for f in draft.answerable if "other" not in f.fill}
    assert plain == {
        ("10.0.3.7", 0, 1),
        ("16 GB", 0, 2),
        ("Łukasz Wójcik", 0, 3),
        ("10.0.3.8", 4, 5),
        ("16 GB", 4, 6),
        ("web-01", 0, 1),
        ("db 2", 4, 5),
        ("web-01", 0, 3),
    }
    lacking = [
        lack.fill for lack in draft.unanswerable if lack.fill["name"] == "db 2" and not lack.missing
    ]
    assert [fill["what"] for fill in lacking] == ["server"]


def test_a_list_of_numbered_entries() -> None:
    source = next(draws(s) for s in range(40) if not _titled(draws(s)))
    listed = LIST_FORMATS["numbered"]("Codes", ["garage", "safe"], ["4711#", "0-9"], source)
    assert listed.draft.pieces == ["1. garage: 4711#\n", "2. safe: 0-9\n"]
    assert listed.lines == [(0, 0), (1, 1)]


def _titled(source: Draws) -> bool:
    return LIST_FORMATS["numbered"]("Codes", ["a"], ["b"], source).draft.lead > 0


def test_an_environment_file() -> None:
    listed = LIST_FORMATS["env"]("", ["max size", "mail url"], ["12", "https://a.b/c"], draws())
    assert listed.draft.pieces == ["MAX_SIZE=12\n", 'MAIL_URL="https://a.b/c"\n']
    assert listed.keys == ["MAX_SIZE", "MAIL_URL"]


def test_nested_json() -> None:
    listed = LIST_FORMATS["json-nested"]("Door codes", ["garage", "safe"], ["4711", "0-9"], draws())
    assert "".join(listed.draft.pieces) == (
        '{\n  "door_codes": {\n    "garage": 4711,\n    "safe": "0-9"\n  }\n}\n'
    )
    assert listed.draft.lead == 2
    assert listed.lines == [(2, 2), (3, 3)]


def test_a_page_becomes_a_passage() -> None:
    draft = Draft()
    place = draft.add("garage: 4711#")
    draft.ask(["= {name}"], "4711#", place, name="garage")
    draft.ask_absent(["= {name}"], "garage", name="garage")
    draft.ask_absent(["= {name}"], "cellar", name="cellar")
    for seed in range(20):
        passage = draft.finish(draws(seed))
        queries = {q.query.lower().rstrip("?"): q.answers for q in passage.questions}
        assert passage.pieces == ("garage: 4711#",)
        assert queries["garage"] == ("4711#",)
        assert queries.get("cellar", ()) == ()
        assert set(queries) <= {"garage", "cellar"}


def test_values_that_several_records_share_are_not_looked_up() -> None:
    sheet = servers()
    draft = tables.ask_about_table(sheet, TABLE_FORMATS["csv"](sheet, draws()), draws())
    names = [fact.fill for fact in draft.answerable if fact.answers[0] in sheet.names]
    assert names
    assert all(fill["value"] != "16 GB" for fill in names if "value" in fill)


Reader = Callable[[str], object]


def _ini(text: str) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(text)
    return {name: dict(parser[name]) for name in parser.sections()}


@pytest.mark.parametrize(
    ("names", "load"),
    [
        (("json-array", "json-by-name", "json-compact"), json.loads),
        (("json-lines",), lambda text: [json.loads(line) for line in text.splitlines()]),
        (("yaml-list", "yaml-under", "yaml-by-name"), YAML(typ="safe", pure=True).load),
        (("toml", "toml-array"), tomllib.loads),
        (("ini", "ini-tight"), _ini),
    ],
)
def test_formats_for_programs_can_be_read(names: tuple[str, ...], load: Reader) -> None:
    for name in names:
        table = TABLE_FORMATS[name](servers(), draws())
        text = str(load("".join(table.draft.pieces)))
        assert all(word in text for word in ("web-01", "10.0.3.7", "16 GB", "Łukasz Wójcik"))
        assert isinstance(TABLE_FORMATS[name], BlockFormat) or "json" in name


@pytest.mark.parametrize(("name", "comma"), [("csv", ","), ("csv-quoted", ","), ("tsv", "\t")])
def test_separated_values_can_be_read(name: str, comma: str) -> None:
    table = TABLE_FORMATS[name](servers(), draws())
    text = "".join(table.draft.pieces[table.draft.lead - 1 :])
    rows = list(csv.reader(io.StringIO(text), delimiter=comma))
    assert rows[1] == ["web-01", "10.0.3.7", "16 GB", "Łukasz Wójcik"]
    assert {len(row) for row in rows} == {4}


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        ("$4.20", ("$4.20", "4.20")),
        ("12 kg", ("12 kg", "12")),
        ("Dr. Łuc", ("Dr. Łuc", "Łuc")),
        ("López, Ana", ("López, Ana", "Ana López")),
        ("09:30", ("09:30", "9:30")),
        ("7753T", ("7753T",)),
        ("10.0.3.7", ("10.0.3.7",)),
    ],
)
def test_other_forms_of_an_answer(answer: str, accepted: tuple[str, ...]) -> None:
    assert list_alternatives(answer) == accepted


def test_wordings_are_dressed_in_many_ways() -> None:
    source = draws()
    said = {
        phrase(source, "the {label} of {name}", {"label": "price", "name": "tea"})
        for _ in range(200)
    }
    assert {"price of tea", "What is the price of tea?", "tell me the price of tea"} <= said
    hours = {
        phrase(source, "the {label} of {name}", {"label": "hours", "name": "a"}) for _ in range(200)
    }
    assert "What are the hours of a?" in hours
    assert find_wordings("cell.ask")
