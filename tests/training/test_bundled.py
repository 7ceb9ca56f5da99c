"""The bundled checkpoints answer as well as their cards say."""

from pathlib import Path

import pytest
import torch

from benchmarks.accuracy.lists import LISTS, Shape
from benchmarks.accuracy.records import measure_records
from benchmarks.rows import Records
from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from gradmem_core.writing.descent import write
from training.evaluation.scores import evaluate
from training.seeds import stream
from training.tasks import KeyValueTask, Question, build_task
from training.writers import load_writer

TASK = KeyValueTask()
SIZES = [1, 2, 3, 5, 8, 12, 16, 16]


@pytest.fixture(scope="module")
def kv16() -> Checkpoint:
    return load_checkpoint("kv-16")


@pytest.mark.parametrize("steps", [2, 5])
def test_a_document_alone_and_in_a_batch_gives_the_same_memory(
    kv16: Checkpoint, steps: int
) -> None:
    documents = [
        kv16.tokenizer.encode(TASK.sample(stream("test", 1, i), size=size, queries=1).context)
        for i, size in enumerate(SIZES)
    ]
    lengths = torch.tensor([len(ids) for ids in documents])
    batch = torch.zeros(len(documents), int(lengths.max()), dtype=torch.long)
    for row, ids in zip(batch, documents, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    together = write(kv16.model, batch, lengths, steps, create_graph=False).memory
    for ids, length, memory in zip(documents, lengths, together, strict=True):
        alone = write(kv16.model, torch.tensor([ids]), length[None], steps, create_graph=False)
        assert float((alone.memory[0] - memory).norm() / memory.norm()) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pairs", "least"),
    [
        ("kv-16", 8, 0.995),
        ("kv-16", 16, 0.99),
        ("kv-96", 8, 0.995),
        ("kv-96", 32, 0.99),
        ("kv-96", 64, 0.97),
    ],
)
def test_exact_match(name: str, pairs: int, least: float) -> None:
    loaded = load_writer(name)
    score = evaluate(
        loaded.writer,
        loaded.form,
        build_task(loaded.form.card.name),
        size=pairs,
        contexts=32,
        queries=16,
        write_steps=5,
        seed=11,
        split="test",
    )
    assert score.exact_match >= least


@pytest.mark.parametrize("name", ["kv-16", "kv-96", "records", "babi"])
def test_they_hold_the_record_of_their_training(name: str) -> None:
    training = load_writer(name).training
    assert training is not None
    assert training.recipe == name
    assert training.contexts > 0


def test_a_story_is_answered() -> None:
    loaded = load_writer("babi")
    tokenizer, form = loaded.form.tokenizer, loaded.form
    story = "The office is east of the hallway. The kitchen is north of the office."
    ids = torch.tensor([tokenizer.encode(story)])
    state = loaded.writer.write(ids, torch.tensor([ids.shape[1]]), 5, train=False)
    asked = [
        form.encode_query(Question("What is the kitchen north of?", "", "")),
        form.encode_query(Question("What is north of the office?", "", "")),
    ]
    (answers,) = loaded.writer.answer(state, [asked], max_tokens=4, stop_ids=form.stop_ids)
    assert [tokenizer.decode(answer) for answer in answers] == ["office", "kitchen"]


@pytest.mark.slow
def test_lists_are_answered_and_absent_keys_refused(tmp_path: Path) -> None:
    for name in ("contacts.txt", "prices.txt", "settings.txt"):
        (tmp_path / name).symlink_to(LISTS / name)
    measurement = measure_records(
        "records",
        shapes=[Shape(8, 8, 8)],
        pages=[2],
        page_shape=Shape(8, 10, 10),
        lists=tmp_path,
        contexts=10,
        steps=[5],
        seed=11,
    )
    rows = [row for row in measurement.rows if isinstance(row, Records)]
    for kind in ("shape", "pages", "list"):
        groups = [row for row in rows if row.kind == kind]
        records = sum(row.records for row in groups)
        assert sum(row.exact_match * row.records for row in groups) >= 0.93 * records, kind
        assert sum(row.rejection_recall * row.records for row in groups) >= 0.88 * records, kind
        wrongly = sum(row.false_rejection_rate * row.records for row in groups)
        assert wrongly <= 0.03 * records, kind
