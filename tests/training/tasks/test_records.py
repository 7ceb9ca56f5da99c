"""Generated lists of records, and how a checkpoint for them is measured."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks.accuracy.records import Asked, Plan, Shape, measure_records, parse_shape, score
from benchmarks.training_results import load_result
from gradmem_core.backbone import Backbone
from gradmem_core.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from gradmem_core.config import MemoryConfig
from gradmem_core.errors import InputError
from gradmem_core.model import MemoryModel
from gradmem_core.texts.documents import prepare_document, prepare_query
from gradmem_core.texts.records import fold_key, parse_records
from gradmem_core.tokenizer import ABSENT
from training.cli import app
from training.seeds import stream
from training.tasks import RecordsTask
from training.tasks.ingredients import PRINTABLE, Ingredients
from training.tasks.records import draw_absent_key, draw_records

TASK = RecordsTask()
LISTS = Path(__file__).resolve().parents[3] / "benchmarks" / "lists"


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


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint for records that nobody trained."""
    tokenizer = TASK.tokenizer()
    backbone = Backbone.from_config(
        {
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
        },
        seed=1,
    )
    config = MemoryConfig(
        memory_tokens=2,
        write_steps=2,
        inner_learning_rate=0.1,
        max_context_tokens=120,
        max_query_tokens=26,
        max_answer_tokens=57,
    )
    folder = tmp_path_factory.mktemp("checkpoints") / "untrained"
    model = MemoryModel(backbone, config, seed=1)
    save_checkpoint(
        folder, name="untrained", model=model, tokenizer=tokenizer, task=TASK.card(), card="# x\n"
    )
    return folder


def test_shapes_are_read_and_written() -> None:
    assert parse_shape("8x10+12") == Shape(8, 10, 12)
    assert str(parse_shape(" 16x24+56")) == "16x24+56"
    for text in ("8", "8x10", "x1+2", "8x10+y"):
        with pytest.raises(InputError, match="RECORDSxKEY"):
            parse_shape(text)


Answers = Callable[[str], str | None]


@pytest.mark.parametrize(
    ("said", "shares"),
    [
        (lambda key: {"a": "1", "b": "2", "c": "3"}.get(key), (1.0, 0.0, 1.0, 1.0)),
        (lambda _: None, (0.0, 1.0, 1.0, 0.25)),
        (lambda _: "1", (1 / 3, 0.0, 0.0, None)),
    ],
)
def test_what_is_counted(
    untrained: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: Answers,
    shares: tuple[float | None, ...],
) -> None:
    monkeypatch.setattr(
        "benchmarks.accuracy.records._answers",
        lambda _checkpoint, _document, keys, _steps: (2, [said(key) for key in keys]),
    )
    asked = [Asked("a: 1\nb: 2\nc: 3\n", {"a": "1", "b": "2", "c": "3"}, ["d"])]
    cell = score(load_checkpoint(untrained), asked, write_steps=2, kind="list", name="mine")
    found = (cell.exact_match, cell.present_refused, cell.absent_refused, cell.refusals_right)
    assert found == shares
    assert (cell.records, cell.absent_keys, cell.pages, cell.documents) == (3, 1, 2, 1)
    wrong = [failure for failure in cell.failures if failure.said == failure.expected]
    assert wrong == []


def test_the_real_lists_fit_what_was_trained(untrained: Path) -> None:
    checkpoint = load_checkpoint(untrained)
    for path in sorted(LISTS.glob("*.txt")):
        text = path.read_text()
        document = prepare_document(checkpoint, text, max_pages=20)
        assert (document.duplicate_keys, document.skipped_lines) == ([], []), path.name
        assert sum(page.records or 0 for page in document.pages) == len(text.splitlines())
        for record in parse_records(text).records:
            prepare_query(checkpoint, record.key)


def test_a_measurement_is_repeatable_and_covers_its_plan(untrained: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a: 1\nb: 2\n")
    plan = Plan(
        shapes=[Shape(2, 4, 4)],
        pages=[2],
        page_shape=Shape(6, 6, 6),
        lists=tmp_path,
        write_steps=[1, 2],
        contexts=2,
    )
    first, second = (measure_records(str(untrained), plan, seed=3, command="c") for _ in range(2))
    assert first.cells == second.cells
    assert [(cell.kind, cell.name, cell.write_steps) for cell in first.cells] == [
        ("shape", "2x4+4", 1),
        ("shape", "2x4+4", 2),
        ("pages", "2", 1),
        ("pages", "2", 2),
        ("list", "mine", 1),
        ("list", "mine", 2),
    ]
    assert all(cell.absent_keys == cell.records for cell in first.cells)


def test_the_command_writes_a_result_file(untrained: Path, tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    options = ["--contexts", "1", "--shapes", "2x4+4", "--pages", "", "--steps", "1"]
    made = CliRunner().invoke(
        app, ["evaluate-records", str(untrained), *options, "--output", str(output)]
    )
    assert made.exit_code == 0, made.output
    assert made.stdout.startswith("| checkpoint | records x longest key + longest value | K |")
    assert load_result(output).result.kind == "records"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["kv-16"], "not for lists of records"),
        (["kv-16", "--shapes", "8"], "is not a shape"),
        (["kv-16", "--pages", "x"], "--pages: 'x' is not a number"),
        (["nowhere"], "there is no checkpoint"),
    ],
)
def test_the_command_refuses(arguments: list[str], says: str) -> None:
    made = CliRunner().invoke(app, ["evaluate-records", *arguments])
    assert made.exit_code == 2
    assert says in made.stderr


def test_a_folder_without_lists_is_refused(untrained: Path, tmp_path: Path) -> None:
    made = CliRunner().invoke(
        app,
        [
            "evaluate-records",
            str(untrained),
            "--shapes",
            "",
            "--pages",
            "",
            "--lists",
            str(tmp_path),
        ],
    )
    assert made.exit_code == 2
    assert "no list" in made.stderr


def test_sample_prints_documents() -> None:
    made = CliRunner().invoke(app, ["sample", "kv", "--size", "2", "--count", "2"])
    assert made.exit_code == 0
    assert made.stdout.count("->") == 8
    assert CliRunner().invoke(app, ["sample", "nothing", "--size", "2"]).exit_code == 2
