"""Generated lists of records."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from gradmem_core.texts.records import fold_key, parse_records
from gradmem_core.tokenizer import ABSENT
from training.cli import app
from training.seeds import stream
from training.tasks import RecordsTask
from training.tasks.ingredients import PRINTABLE, Ingredients
from training.tasks.records import draw_absent_key, draw_records

TASK = RecordsTask()


def rng(*place: int) -> np.random.Generator:
    return stream("train", 0, *place)


@given(st.integers(1, 400), st.integers(0, 2**31))
def test_a_document_is_a_list_of_at_most_its_size(size: int, seed: int) -> None:
    drawn = TASK.sample(rng(seed), size=size, queries=6)
    assert len(drawn.context) <= max(size, 4)
    lines = drawn.context.splitlines()
    known = dict(line.split("\t") for line in lines)
    assert len(known) == len(lines) >= 1
    assert all(
        key == fold_key(key) != "" and value == value.strip() != "" for key, value in known.items()
    )
    for question in drawn.questions:
        key = question.query.removeprefix("\x05").removesuffix("\t")
        assert question.answer == known.get(key, ABSENT)
        assert question.target == question.answer + "\n"
    tokenizer = TASK.tokenizer()
    assert tokenizer.decode(tokenizer.encode(drawn.context)) == drawn.context


def test_a_document_depends_on_its_seed_alone() -> None:
    alone = [TASK.sample(rng(i), size=150, queries=4) for i in range(30)]
    for i in reversed(range(30)):
        assert TASK.sample(rng(i), size=150, queries=4) == alone[i]
    assert len({example.context for example in alone}) == 30


def test_some_questions_are_about_keys_that_are_not_there() -> None:
    drawn = [TASK.sample(rng(i), size=100, queries=8) for i in range(200)]
    absent = [q.answer == ABSENT for example in drawn for q in example.questions]
    assert 0.45 < np.mean(absent) < 0.55


def test_documents_are_of_all_shapes() -> None:
    drawn = [TASK.sample(rng(i), size=300, queries=1).context for i in range(300)]
    counts = [context.count("\n") for context in drawn]
    longest = [max(len(line.split("\t")[1]) for line in c.splitlines()) for c in drawn]
    assert min(counts) <= 10
    assert max(counts) >= 30
    assert min(longest) <= 3
    assert max(longest) >= 45


def test_a_document_can_be_written_as_the_service_reads_it() -> None:
    drawn = TASK.sample(rng(3), size=200, queries=1).context
    assert "".join(record.line for record in parse_records(drawn).records) == drawn


@given(st.integers(0, 2**31))
def test_an_absent_key_is_absent(seed: int) -> None:
    draw = rng(seed)
    drawn = draw_records(draw, longest_key=2, longest_value=3, most=8)
    assert len(drawn.records) <= 8
    for alike in (drawn.keys, None):
        key = draw_absent_key(draw, drawn.records[0].key, drawn.records, alike=alike)
        assert key == fold_key(key) != ""
        assert key not in {record.key for record in drawn.records}


def test_every_ingredient_gives_printable_texts() -> None:
    texts = Ingredients()
    for kind in texts.kinds:
        texts.seed(1)
        drawn = [texts.draw(kind) for _ in range(100)]
        assert all(set(text) <= set(PRINTABLE) for text in drawn), kind
        assert sum(map(bool, drawn)) >= 90, kind
        assert not any("{{" in text for text in drawn), kind
        texts.seed(1)
        assert [texts.draw(kind) for _ in range(100)] == drawn, kind


def test_an_ingredient_is_a_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('rack = ["R##-U%"]\npart = ["{{made_up_word}}/#"]\n')
    texts = Ingredients(file)
    assert texts.kinds == ["part", "rack"]
    texts.seed(0)
    assert texts.draw("rack").startswith("R")


def test_the_example_of_the_card_is_a_list() -> None:
    card = TASK.card()
    found = {record.key: record.value for record in parse_records(card.example_document).records}
    assert found[card.example_query] == card.example_answer


# Measuring


def test_sample_prints_documents() -> None:
    made = CliRunner().invoke(app, ["sample", "kv", "--size", "2", "--count", "2"])
    assert made.exit_code == 0
    assert made.stdout.count("->") == 8
    assert CliRunner().invoke(app, ["sample", "nothing", "--size", "2"]).exit_code == 2
