"""Structured passages: what they ask is answered by their text, or truly is not."""

import configparser
import csv
import io
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from gradmem_core.tokenizer import Tokenizer
from training.seeds import stream
from training.tasks.passages.base import Passage, PassageQuestion
from training.tasks.passages.structured import FAMILIES, StructuredPassages, records
from training.tasks.passages.structured.code import LANGUAGES, functions
from training.tasks.passages.structured.draws import Draws, _kinds
from training.tasks.passages.structured.events import sentences
from training.tasks.passages.structured.lists import LISTS
from training.tasks.passages.structured.page import LONGEST_QUERY, Page, alternatives
from training.tasks.passages.structured.sheet import Sheet, domains
from training.tasks.passages.structured.tables import TABLES, TALL
from training.tasks.passages.structured.wordings import WORDINGS, phrase, wordings

SEEDS = 600
TOKENS = 55
"Most tokens of a query with its answer."
PROSE = Path(__file__).parents[3] / "gradmem_core/bundled/prose"
DOCUMENTATION = Path(__file__).parents[3] / "docs/TRAINING.md"


def drawn(seed: int) -> Passage:
    return StructuredPassages().draw(stream("train", seed), "train")


@pytest.fixture(scope="module")
def passages() -> list[Passage]:
    return [drawn(seed) for seed in range(SEEDS)]


def draws(seed: int = 0) -> Draws:
    return Draws(np.random.default_rng(seed))


def servers() -> Sheet:
    """Return two servers, the second of which has no owner."""
    domain = domains()["servers"]
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


def test_answers_stand_in_the_pieces_that_they_are_said_to_need(passages: list[Passage]) -> None:
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


def test_a_seed_draws_the_same_passage_again() -> None:
    assert [drawn(seed) for seed in range(40)] == [drawn(seed) for seed in range(40)]
    assert drawn(1) != drawn(2)


def test_other_processes_draw_the_same_passages() -> None:
    code = (
        "from training.seeds import stream\n"
        "from training.tasks.passages.structured import StructuredPassages\n"
        "for seed in range(40):\n"
        "    print(ascii(StructuredPassages().draw(stream('train', seed), 'train')))\n"
    )
    environment = os.environ | {"PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert ran.stdout.splitlines() == [ascii(drawn(seed)) for seed in range(40)]


def test_the_documentation_counts_domains_formats_and_documents() -> None:
    others = [name for name, (write, _) in FAMILIES.items() if write.__module__ != records.__name__]
    assert (
        f"{len(domains())} domains in {len(TABLES) + len(LISTS)} formats"
        f" and {len(others)} other kinds of document"
    ) in documentation()


def test_the_documentation_says_about_how_many_wordings_there_are() -> None:
    fields = [field for domain in domains().values() for field in domain.fields]
    said = [sentence for group in ("said", "logged") for sentence in sentences(group)]
    groups = tomllib.loads(WORDINGS.read_text())
    asked = {wording for field in fields for wording in (*field.ask, *field.back)}
    asked |= {wording for sentence in said for wording in sentence.ask}
    asked |= {
        wording
        for group in groups.values()
        if isinstance(group, dict)  # the lists are frames, which a wording is put into
        for listed in group.values()
        for wording in listed
    }
    assert "with about a thousand wordings of questions" in documentation()
    assert 950 <= len(asked) <= 1050


def documentation() -> str:
    """Return the page of training, its lines joined."""
    return " ".join(DOCUMENTATION.read_text().split())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_asks_something_answerable(name: str) -> None:
    write, _ = FAMILIES[name]
    found: list[PassageQuestion] = []
    for seed in range(25):
        source = draws(seed)
        found += write(source).passage(source).questions
    assert sum(bool(question.answers) for question in found) >= 25
    assert sum(not question.answers for question in found) >= 3


@pytest.mark.parametrize("name", TABLES)
def test_every_table_format_says_every_value_where_it_is_said_to(name: str) -> None:
    for seed in range(6):
        source = draws(seed)
        page = records.table(source, name)
        assert len(page.facts) >= 2
        assert not re.search(
            r"\{(name|corner|plural|title|head|value|comma)\}", "".join(page.pieces)
        )
        for fact in page.facts:
            there = "".join([*page.pieces[: page.lead], *page.pieces[fact.first : fact.last + 1]])
            written = any(fact.answers[0] in text for text in (there, there.replace("''", "'")))
            assert written or "&" in fact.answers[0]


@pytest.mark.parametrize("name", LISTS)
def test_every_list_format_says_every_value_where_it_is_said_to(name: str) -> None:
    for seed in range(6):
        source = draws(seed)
        page = records.card(source, name)
        for fact in page.facts:
            assert fact.answers[0] in "".join(page.pieces[fact.first : fact.last + 1]) or {
                "&",
                "'",
            } & set(fact.answers[0])


@pytest.mark.parametrize("name", LANGUAGES)
def test_every_language_writes_functions(name: str) -> None:
    source = draws(4)
    assert functions(source, name).passage(source).questions


def test_no_two_fields_of_a_domain_are_called_alike() -> None:
    for name, domain in domains().items():
        called = [label.lower() for field in domain.fields for label in field.called]
        assert len(set(called)) == len(called), name
        assert domain.what not in called, name
        assert domain.names in _kinds(), name
        assert all(kind in _kinds() for f in domain.fields for kind in f.kind.split("|")), name


@pytest.mark.parametrize("kind", sorted(_kinds()))
def test_every_kind_draws_values(kind: str) -> None:
    source = draws(9)
    values = [source.value(kind) for _ in range(30)]
    assert all(0 < len(value) <= 48 for value in values)
    assert not any(sign in value for value in values for sign in '{}"\\|\t\n')


def test_every_wording_can_be_filled_in() -> None:
    source = draws()
    fill = dict.fromkeys(("name", "label", "value", "what"), "x")
    for domain in domains().values():
        for asked in domain.fields:
            for wording in (*asked.ask, *asked.back):
                assert "{name}" in wording or "{value}" in wording
                assert "{" not in phrase(source, wording, fill)


def test_a_markdown_table() -> None:
    layout = TABLES["markdown-narrow"](servers(), _without_title("markdown-narrow"))
    heads = layout.page.pieces[0].strip("| \n").split(" | ")
    empty = layout.page.pieces[3].strip("\n").split(" | ")[-1].removesuffix(" |")
    assert [head.lower() for head in heads] == ["server", "ip", "memory", "owner"]
    assert layout.page.pieces[1:] == [
        "|---|---|---|---|\n",
        "| web-01 | 10.0.3.7 | 16 GB | Łukasz Wójcik |\n",
        f"| db 2 | 10.0.3.8 | 16 GB | {empty} |\n",
    ]
    assert layout.page.lead == 2
    assert layout.cells[1, 0] == (3, 3)


def _without_title(name: str) -> Draws:
    return next(
        source
        for source, again in ((draws(seed), draws(seed)) for seed in range(40))
        if TABLES[name](servers(), again).page.lead == 2
    )


def test_yaml_by_name_and_what_can_be_asked() -> None:
    source = next(
        draws(seed)
        for seed in range(40)
        if TABLES["yaml-by-name"](servers(), draws(seed)).heads[0] == "ip"
    )
    layout = TABLES["yaml-by-name"](servers(), source)
    page = records.ask_table(servers(), layout, source)
    assert page.pieces == [
        "web-01:\n",
        '  ip: "10.0.3.7"\n',
        '  memory: "16 GB"\n',
        '  owner: "Łukasz Wójcik"\n',
        "db 2:\n",
        '  ip: "10.0.3.8"\n',
        '  memory: "16 GB"\n',
    ]
    plain = {(f.answers[0], f.first, f.last) for f in page.facts if "other" not in f.fill}
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
    lacking = [lack.fill for lack in page.lacks if lack.fill["name"] == "db 2" and not lack.missing]
    assert [fill["what"] for fill in lacking] == ["server"]


def test_a_list_of_numbered_entries() -> None:
    source = next(draws(s) for s in range(40) if not _titled(draws(s)))
    listed = LISTS["numbered"]("Codes", ["garage", "safe"], ["4711#", "0-9"], source)
    assert listed.page.pieces == ["1. garage: 4711#\n", "2. safe: 0-9\n"]
    assert listed.places == [(0, 0), (1, 1)]


def _titled(source: Draws) -> bool:
    return LISTS["numbered"]("Codes", ["a"], ["b"], source).page.lead > 0


def test_an_environment_file() -> None:
    listed = LISTS["env"]("", ["max size", "mail url"], ["12", "https://a.b/c"], draws())
    assert listed.page.pieces == ["MAX_SIZE=12\n", 'MAIL_URL="https://a.b/c"\n']
    assert listed.keys == ["MAX_SIZE", "MAIL_URL"]


def test_nested_json() -> None:
    listed = LISTS["json-nested"]("Door codes", ["garage", "safe"], ["4711", "0-9"], draws())
    assert "".join(listed.page.pieces) == (
        '{\n  "door_codes": {\n    "garage": 4711,\n    "safe": "0-9"\n  }\n}\n'
    )
    assert listed.page.lead == 2
    assert listed.places == [(2, 2), (3, 3)]


def test_a_page_becomes_a_passage() -> None:
    page = Page()
    place = page.add("garage: 4711#")
    page.ask(["= {name}"], "4711#", place, name="garage")
    page.lack(["= {name}"], "garage", name="garage")
    page.lack(["= {name}"], "cellar", name="cellar")
    for seed in range(20):
        passage = page.passage(draws(seed))
        queries = {q.query.lower().rstrip("?"): q.answers for q in passage.questions}
        assert passage.pieces == ("garage: 4711#",)
        assert queries["garage"] == ("4711#",)
        assert queries.get("cellar", ()) == ()
        assert set(queries) <= {"garage", "cellar"}


def test_values_that_several_records_share_are_not_looked_up() -> None:
    sheet = servers()
    page = records.ask_table(sheet, TABLES["csv"](sheet, draws()), draws())
    names = [fact.fill for fact in page.facts if fact.answers[0] in sheet.names]
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
        layout = TABLES[name](servers(), draws())
        text = str(load("".join(layout.page.pieces)))
        assert all(word in text for word in ("web-01", "10.0.3.7", "16 GB", "Łukasz Wójcik"))
        assert name in TALL or "json" in name


@pytest.mark.parametrize(("name", "comma"), [("csv", ","), ("csv-quoted", ","), ("tsv", "\t")])
def test_separated_values_can_be_read(name: str, comma: str) -> None:
    layout = TABLES[name](servers(), draws())
    text = "".join(layout.page.pieces[layout.page.lead - 1 :])
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
    assert alternatives(answer) == accepted


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
    assert wordings("cell.ask")
