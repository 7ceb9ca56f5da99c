"""Measurements of a checkpoint for lists of records."""

from pathlib import Path

import pytest

from benchmarks.accuracy.lists import PAGE, SHAPES, ListGroup, Shape, list_groups, read_lists
from benchmarks.accuracy.records import group_rows
from benchmarks.accuracy.replies import AskedText
from benchmarks.rows import Records, RecordsFailure
from gradmem_core.backbone import Backbone
from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from gradmem_core.config import MemoryConfig
from gradmem_core.model import MemoryModel
from gradmem_core.texts.documents import prepare_document, prepare_query
from tests.benchmarks.commands import invoke, measure, measure_rows
from training.tasks import Question, RecordsTask

TASK = RecordsTask()
SETTINGS = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint for records that nobody trained."""
    tokenizer = TASK.tokenizer()
    backbone = Backbone.from_config({**SETTINGS, "vocab_size": len(tokenizer)}, seed=1)
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


@pytest.fixture(scope="module")
def records() -> Checkpoint:
    return load_checkpoint("records")


def ask(present: dict[str, str], *absent: str) -> AskedText:
    """A list that is asked for some keys."""
    return AskedText(
        "door: 4711\nwindow: 12\n",
        tuple(Question(key, f" {value}\n", value) for key, value in present.items()),
        tuple(Question(key, "", "") for key in absent),
    )


def test_shapes_are_read_and_written() -> None:
    assert Shape.parse("8x10+12") == Shape(8, 10, 12)
    assert str(Shape.parse("16x24+56")) == "16x24+56"
    for text in ("8", "8x10", "x1+2", "8x10+y"):
        with pytest.raises(ValueError, match="RECORDSxKEY"):
            Shape.parse(text)


def test_right_wrong_and_refused_answers_are_counted(records: Checkpoint) -> None:
    right = ask({"door": "4711", "window": "12"}, "mirror", "the ceiling")
    wrong = ask({"door": "4712", "mirror": "12"}, "window")
    group = ListGroup("list", "mine", [right, wrong])
    row, *failures = group_rows(records, group, [5])
    assert isinstance(row, Records)
    assert (row.documents, row.records, row.absent_keys, row.pages) == (2, 4, 3, 2)
    assert row.characters == 2 * len(right.text)
    assert row.exact_match == pytest.approx(2 / 4)
    assert row.false_rejection_rate == pytest.approx(1 / 4)  # there is no mirror
    assert row.rejection_recall == pytest.approx(2 / 3)
    assert row.rejection_precision == pytest.approx(2 / 3)
    assert [
        (failure.key, failure.expected, failure.answer)
        for failure in failures
        if isinstance(failure, RecordsFailure)
    ] == [("door", "4712", "4711"), ("mirror", "12", None), ("window", None, "12")]


def test_the_real_lists_fit_what_was_trained(untrained: Path) -> None:
    checkpoint = load_checkpoint(untrained)
    groups = list(list_groups([], [], contexts=1, seed=7))
    assert len(groups) == len(read_lists()) > 5
    for group in groups:
        (asked,) = group.lists
        document = prepare_document(checkpoint, asked.text, max_pages=20)
        assert (document.duplicate_keys, document.skipped_lines) == ([], []), group.name
        lines = len(asked.text.splitlines())
        assert sum(page.records or 0 for page in document.pages) == lines == len(asked.present)
        for question in (*asked.present, *asked.absent):
            prepare_query(checkpoint, question.query)


def test_generated_lists_have_their_shape_and_lack_the_absent_keys() -> None:
    groups = list(list_groups(SHAPES[:1], [1, 2], contexts=4, seed=7))
    assert [(group.name, len(group.lists)) for group in groups[:3]] == [
        ("8x8+8", 4),
        ("1", 4),
        ("2", 2),
    ]
    for group, records in zip(groups, (8, PAGE.records, 2 * PAGE.records), strict=False):
        for asked in group.lists:
            keys = {question.query for question in asked.present}
            assert len(asked.text.splitlines()) == len(keys) == len(asked.absent) == records
            assert not keys & {question.query for question in asked.absent}


def test_a_measurement_is_repeatable_and_covers_its_options(
    untrained: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("a: 1\nb: 2\n")
    options = ("--shapes", "2x4+4", "--pages", 2, "--page-shape", "6x6+6", "--lists", tmp_path)
    command = ("records", untrained, *options, "--steps", "1,2", "--contexts", 2, "--seed", 3)
    first, second = (measure(*command) for _ in range(2))
    assert first.rows == second.rows
    rows = measure_rows(Records, *command)
    assert [(row.kind, row.name, row.write_steps) for row in rows] == [
        ("shape", "2x4+4", 1),
        ("shape", "2x4+4", 2),
        ("pages", "2", 1),
        ("pages", "2", 2),
        ("list", "mine", 1),
        ("list", "mine", 2),
    ]
    assert all(row.absent_keys == row.records for row in rows)
    assert {row.memory_floats for row in rows} == {2 * 16}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kv-16"], "not for lists of records"),
        (["kv-16", "--shapes", "8"], "is not a shape"),
        (["kv-16", "--page-shape", "8"], "is not a shape"),
        (["kv-16", "--pages", "x"], "'x' is not a number"),
        (["records", "--steps", "5,21"], "21 write steps"),
        (["nowhere"], "there is no checkpoint"),
    ],
)
def test_the_command_refuses(arguments: list[str], message: str) -> None:
    refused = invoke("records", *arguments)
    assert refused.exit_code == 2
    assert message in refused.stderr


def test_a_folder_without_lists_is_refused(untrained: Path, tmp_path: Path) -> None:
    refused = invoke("records", untrained, "--lists", tmp_path)
    assert refused.exit_code == 2
    assert "no list" in refused.stderr
